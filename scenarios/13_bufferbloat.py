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
    alice.run("echo reno > /proc/sys/net/ipv4/tcp_congestion_control", check=True)  # some keep queues short
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
    times = {name: late(found) for name, found in waits.items()}
    for name, found in times.items():
        lab.log(f"{name}: ping {statistics.median(found) * 1000:.0f} ms, at most {max(found) * 1000:.0f} ms")
    assert statistics.median(times["plain queue"]) > 3 * statistics.median(times["CoDel"])
    assert statistics.median(times["CoDel"]) < 0.1
    assert cable.account().balances()
    if plot:
        draw(waits, plot)
        lab.log(f"the plot is in {plot}")


def measure(lab: Lab, seconds: float) -> list[tuple[float, float]]:
    """Pings while a download from alice goes on: when each was sent, and its round trip, in seconds."""
    alice, bob = lab.hosts["alice"], lab.hosts["bob"]
    download = bob.fetch(alice.serve(bytes_=int(RATE / 8 * (seconds + 1))))
    began = lab.elapsed()
    found: list[tuple[float, float]] = []
    while not download.done() and (now := lab.elapsed() - began) < seconds:
        found += [(now, rtt) for rtt in alice.ping("192.0.2.2", count=1, timeout=2).rtts]
    download.wait(timeout=30)
    return found


def late(waits: list[tuple[float, float]]) -> list[float]:
    """The round trips of the last two thirds of the time: the queue has filled by then."""
    return [wait for when, wait in waits if when > waits[-1][0] / 3]


def draw(waits: dict[str, list[tuple[float, float]]], path: str) -> None:
    """Round trips over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, found), colour in zip(waits.items(), ("#b0492f", "#2f6fb0"), strict=True):
        axes.plot(
            [when for when, _ in found], [1000 * wait for _, wait in found], ".-", color=colour, label=name
        )
    axes.set(
        xlabel="seconds since the download began",
        ylabel="round trip, ms",
        ylim=(0, None),
        title="10 Mbit/s uplink during a download",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
