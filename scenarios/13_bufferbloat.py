"""A slow uplink with a large queue: a download makes every ping wait. CoDel keeps the queue short.

    alice 192.0.2.1 ==== her NIC sends 10 Mbit/s ==== 192.0.2.2 bob

Run:     iflab run scenarios/13_bufferbloat.py --set plot=bloat.png
Watch:   iflab top bufferbloat
Expect:  with a plain queue of 400 frames pings wait for hundreds of milliseconds; with CoDel (RFC 8289) for tens, at
         nearly the same throughput. The plot needs matplotlib: pip install 'iflab[report]'.
"""

import statistics

from iflab import Lab, PingResult
from iflab.net.altq import CoDel, TokenBucketRegulator, altq_forgo, altq_use

RATE = 10e6


def scenario(lab: Lab, seconds: float = 4.0, queue: int = 400, plot: str = "") -> None:
    alice, _bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    em0 = alice.nics["em0"]
    alice.sysctl("net.ipv4.tcp_congestion_control", "reno")  # some keep queues short
    lab.wait_links()
    with lab.lock:
        em0.if_snd.ifq_maxlen = queue
        TokenBucketRegulator(lab.engine, RATE, depth=3000).attach(em0)
    pings = {"plain queue": measure(lab, seconds, "plain queue")}
    with lab.lock:
        altq_use(em0, CoDel(lab.engine))
    pings["CoDel"] = measure(lab, seconds, "CoDel")
    with lab.lock:
        altq_forgo(em0)
    plain, codel = (statistics.median(late(found, seconds)) for found in pings.values())
    assert plain > 3 * codel
    assert codel < 0.1
    assert cable.account().balances()
    if plot:
        draw(pings, plot)
        lab.log(f"the plot is in {plot}")


def measure(lab: Lab, seconds: float, name: str) -> PingResult:
    """Pings, twenty a second, while a download from alice goes on that needs about as long."""
    alice, bob = lab.hosts["alice"], lab.hosts["bob"]
    download = bob.fetch(alice.serve(bytes_=int(RATE / 8 * seconds)))
    result = alice.ping("192.0.2.2", count=int(seconds * 20), interval=0.05, timeout=3)
    size, rate = download.wait(timeout=30), download.received * 8 / download.seconds
    found = late(result, seconds)
    lab.log(
        f"{name}: {size} octets at {rate / 1e6:.1f} Mbit/s; the pings meanwhile took "
        f"{statistics.median(found) * 1000:.0f} ms, {max(found) * 1000:.0f} at most"
    )
    return result


def late(pings: PingResult, seconds: float) -> list[float]:
    """The round trips of those sent in the last two thirds of the time: the queue has filled by then."""
    return [rtt for when, rtt in zip(pings.times, pings.rtts, strict=True) if when > seconds / 3]


def draw(pings: dict[str, PingResult], path: str) -> None:
    """Round trips over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, found), colour in zip(pings.items(), ("#b0492f", "#2f6fb0"), strict=True):
        axes.plot(found.times, [1000 * rtt for rtt in found.rtts], ".-", color=colour, label=name)
    axes.set(
        xlabel="seconds since the download began",
        ylabel="round trip, ms",
        ylim=(0, None),
        title="10 Mbit/s uplink during a download",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
