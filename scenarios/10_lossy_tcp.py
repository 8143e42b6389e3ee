"""TCP over cables that lose frames: throughput falls with the rate of loss, and nothing arrives wrong.

    alice 192.0.2.1 ==== 20 ms, some frames are lost ==== 192.0.2.2 bob

Run:     iflab run scenarios/10_lossy_tcp.py --set plot=loss.png
Watch:   iflab top lossy_tcp
Expect:  every download completes; 3 % of loss costs most of the throughput. It falls with the square root of the loss
         for a TCP that takes loss for congestion (Mathis et al. 1997). The plot needs matplotlib:
         pip install 'iflab[report]'.
"""

import importlib.util

from iflab import Lab, Missing
from iflab.faults import Loss

ROUND_TRIP = 0.02


def scenario(lab: Lab, size: int = 4_000_000, plot: str = "") -> None:
    if plot and importlib.util.find_spec("matplotlib") is None:  # before the minutes, not after them
        raise Missing("a plot needs matplotlib; install it with: pip install 'iflab[report]'")
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    cable.set_delay(ROUND_TRIP / 2)
    alice.sysctl("net.ipv4.tcp_congestion_control", "reno")  # some others do not mind loss
    lab.wait_links()
    rates = (0.0, 0.001, 0.003, 0.01, 0.03)
    found = []
    for loss in rates:
        if loss:
            cable.impair(Loss(loss), towards="bob:em0")
        octets = size if loss < 0.003 else size // 2  # the slow ones would take long
        before = cable.account().dropped["loss"]
        download = bob.fetch(alice.serve(bytes_=octets))
        assert download.wait(timeout=120) == octets
        found.append(octets * 8 / download.seconds / 1e6)
        lost = cable.account().dropped["loss"] - before
        lab.log(f"loss {loss:5.1%}: {found[-1]:6.2f} Mbit/s, {lost} frames lost")
    assert found[-1] < found[0] / 2
    assert cable.account().dropped["loss"] > 0
    assert cable.account().balances()
    if plot:
        draw(rates, found, plot)
        lab.log(f"the plot is in {plot}")


def draw(rates: tuple[float, ...], found: list[float], path: str) -> None:
    """Throughput by rate of loss, beside what the rule says: 1.22 segments a round trip, over the root of the loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    lossy = [n / 10_000 for n in range(10, int(10_000 * rates[-1]) + 1)]
    rule = [1.22 * 1448 * 8 / ROUND_TRIP / loss**0.5 / 1e6 for loss in lossy]
    axes.plot([100 * loss for loss in lossy], rule, "--", color="#999999", label="Mathis et al. 1997")
    axes.plot([100 * rate for rate in rates], found, "o-", color="#2f6fb0", label="measured")
    title = f"TCP (Reno), round trip {1000 * ROUND_TRIP:.0f} ms"
    axes.set(xlabel="frames lost, %", ylabel="Mbit/s", yscale="log", title=title)
    axes.set_yticks([1, 3, 10, 30, 100, 300], ["1", "3", "10", "30", "100", "300"])
    axes.set_yticks([], minor=True)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
