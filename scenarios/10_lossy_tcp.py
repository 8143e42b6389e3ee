"""TCP over cables that lose frames: throughput falls with the rate of loss, and nothing arrives wrong.

    alice 192.0.2.1 ==== 20 ms, some frames are lost ==== 192.0.2.2 bob

Run:     iflab run scenarios/10_lossy_tcp.py --set plot=loss.png
Watch:   iflab top lossy_tcp
Expect:  every download completes; 3 % of loss costs most of the throughput. It falls with the square root of the loss
         for a TCP that takes loss for congestion (Mathis et al. 1997). A plot needs matplotlib.
"""

from iflab import Lab
from iflab.faults import Loss


def scenario(lab: Lab, size: int = 1_000_000, plot: str = "") -> None:
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    cable.set_delay(0.01)
    alice.run(
        "echo reno > /proc/sys/net/ipv4/tcp_congestion_control", check=True
    )  # some others do not mind loss
    lab.wait_links()
    rates = (0.0, 0.001, 0.003, 0.01, 0.03)
    found = []
    for loss in rates:
        if loss:
            cable.impair(Loss(loss), towards=bob.nics["em0"].if_softc)
        download = bob.fetch(alice.serve(bytes_=size))
        assert download.wait(timeout=60) == size
        found.append(size * 8 / download.seconds / 1e6)
        lost = cable.account().dropped["loss"]
        lab.log(f"loss {loss:6.1%}: {found[-1]:8.2f} Mbit/s, {lost} frames lost so far")
    assert found[-1] < found[0] / 2
    assert cable.account().dropped["loss"] > 0
    assert cable.account().balances()
    if plot:
        draw(rates, found, plot)
        lab.log(f"the plot is in {plot}")


def draw(rates: tuple[float, ...], found: list[float], path: str) -> None:
    """Throughput by rate of loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([100 * rate for rate in rates], found, "o-", color="#2f6fb0")
    axes.set(xlabel="frames lost, %", ylabel="Mbit/s", yscale="log", title="TCP, round trip 20 ms")
    axes.grid(alpha=0.3)
    figure.savefig(path)
