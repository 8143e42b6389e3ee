"""Two links as one: the first is cut in the middle of a download, which goes on over the second.

    alice  em0 ==== em0  bob
      lagg0             lagg0
           em1 ==== em1

Run:     iflab run scenarios/22_lagg_failover.py
Watch:   iflab ifconfig lagg_failover alice lagg0
Expect:  the download completes without a pause that anybody would see.
"""

from iflab import Lab


def scenario(lab: Lab, proto: str = "failover", cut_after: float = 0.15, size: int = 40_000_000) -> None:
    alice, bob = lab.host("alice"), lab.host("bob")
    for number, host in enumerate((alice, bob), start=1):
        for name in ("em0", "em1"):
            host.nic(name)
        host.ifconfig(f"lagg0 create laggproto {proto} laggport em0 laggport em1 192.0.2.{number}/24")
    cables = [lab.cable(alice.nics[name], bob.nics[name], name=name, delay=0.005) for name in ("em0", "em1")]
    lab.wait_links()
    while not alice.ping("192.0.2.2", timeout=0.2).received:
        pass

    download = bob.fetch(alice.serve(bytes_=size, address="192.0.2.1"))
    lab.at(cut_after, cables[0].cut)

    assert download.wait(timeout=60) == size
    assert download.seconds > cut_after  # it was not over before the cut
    shares = [cable.account().octets for cable in cables]
    lab.log(f"{size} octets in {download.seconds:.2f} s; em0 carried {shares[0]}, em1 {shares[1]}")
    assert shares[1] > 0
    assert all(cable.account().balances() for cable in cables)
    lab.log(alice.ifconfig("lagg0").strip())
