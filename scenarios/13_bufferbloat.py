"""A slow uplink with a large queue: a download makes every ping wait. CoDel keeps the queue short.

    alice 192.0.2.1 ==== her NIC sends 10 Mbit/s ==== 192.0.2.2 bob

Run:     iflab run scenarios/13_bufferbloat.py --set plot=bloat.png
Watch:   iflab top bufferbloat
Expect:  with a plain queue of 400 frames pings wait for hundreds of milliseconds; with CoDel (RFC 8289) for tens, at
         nearly the same throughput. The plot needs matplotlib: pip install 'iflab[bench]'.
"""

import statistics

from iflab import Lab
from iflab.net.altq import CoDel, TokenBucketRegulator, altq_forgo, altq_use

RATE = 10e6


def scenario(lab: Lab, seconds: float = 2.0, queue: int = 400, plot: str = "") -> None:
    alice, _bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    em0 = alice.nics["em0"]
    alice.run(
        "echo reno > /proc/sys/net/ipv4/tcp_congestion_control", check=True
    )  # some others keep queues short
    lab.wait_links()
    with lab.lock:
        em0.if_snd.ifq_maxlen = queue
        TokenBucketRegulator(lab.engine, RATE, depth=3000).attach(em0)
    waits = {"plain queue": measure(lab, seconds)}
    with lab.lock:
        altq_use(em0, CoDel(lab.engine))
    waits["CoDel"] = measure(lab, seconds)
    with lab.lock:
        altq_forgo(em0)
    for name, times in waits.items():
        lab.log(
            f"{name}: ping {statistics.median(times) * 1000:.0f} ms median, {max(times) * 1000:.0f} ms at most"
        )
    assert statistics.median(waits["plain queue"]) > 3 * statistics.median(waits["CoDel"])
    assert statistics.median(waits["CoDel"]) < 0.1
    assert cable.account().balances()
    if plot:
        draw(waits, plot)
        lab.log(f"the plot is in {plot}")


def measure(lab: Lab, seconds: float) -> list[float]:
    """Round trips of pings while a download from alice goes on, in seconds; those of the first third left out."""
    alice, bob = lab.hosts["alice"], lab.hosts["bob"]
    size = int(RATE / 8 * (seconds + 1))
    download = bob.fetch(alice.serve(bytes_=size))
    times: list[float] = []
    while not download.done() and sum(times) + 0.05 * len(times) < seconds:
        result = alice.ping("192.0.2.2", count=1, timeout=2)
        times += result.rtts
    download.wait(timeout=30)
    return times[len(times) // 3 :]


def draw(waits: dict[str, list[float]], path: str) -> None:
    """Round trips over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, times), colour in zip(waits.items(), ("#b0492f", "#2f6fb0"), strict=True):
        axes.plot([1000 * wait for wait in times], color=colour, label=name)
    axes.set(
        xlabel="ping", ylabel="round trip, ms", ylim=(0, None), title="10 Mbit/s uplink during a download"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
