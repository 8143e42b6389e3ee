"""A cable is cut in the middle of a download, and mended. TCP survives.

    alice 192.0.2.1 ==== cable ==== 192.0.2.2 bob

Run:     iflab run scenarios/06_link_flap.py --set cut_for=2
Watch:   iflab exec link_flap bob ip monitor link
Expect:  the link goes down and comes back, the download pauses, retransmits, and completes.
"""

from iflab import Lab


def scenario(lab: Lab, cut_after: float = 0.2, cut_for: float = 1.0, size: int = 40_000_000) -> None:
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    cable.set_delay(0.01)  # ten milliseconds each way, so that the download is still going on at the cut
    lab.wait_links()

    download = bob.fetch(alice.serve(bytes_=size))
    lab.at(cut_after, cable.cut)
    lab.at(cut_after + cut_for, cable.mend)

    assert download.wait(timeout=60) == size
    assert download.seconds > cut_after + cut_for  # it was not over before the cut
    segments = bob.run(["cat", "/proc/net/snmp"]).stdout, alice.run(["cat", "/proc/net/snmp"]).stdout
    lab.log(
        f"{size} octets in {download.seconds:.2f} s; alice sent {retransmitted(segments[1])} segments again"
    )
    assert retransmitted(segments[1]) > 0
    assert cable.account().balances()


def retransmitted(snmp: str) -> int:
    """The host's own count of TCP segments sent again (RFC 4022, tcpRetransSegs)."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])
