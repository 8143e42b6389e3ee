"""A test of a real daemon: dnsmasq hands out addresses over DHCP (RFC 2131) to a client written with scapy.

Run it with pytest; the fixture ``lab`` comes with iflab. When something fails, the
folder that the failure names holds the capture, the ladder and the events.
"""

from __future__ import annotations

import shutil

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

SERVER = "192.0.2.1"

pytestmark = pytest.mark.skipif(
    shutil.which("dnsmasq", path="/usr/sbin:/usr/bin") is None,
    reason="dnsmasq is missing: apt install dnsmasq-base",
)


@pytest.fixture
def server(lab, tmp_path):
    """A host with dnsmasq, which listens before the test begins."""
    server = lab.host("server")
    server.nic("em0", f"{SERVER}/24")
    server.popen(
        [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=em0",
            "--dhcp-range=192.0.2.100,192.0.2.110,10m", "--dhcp-option=option:router,192.0.2.1",
            f"--dhcp-leasefile={tmp_path}/leases", "--pid-file=", "--user=root", "--group=", "--no-ping",
        ],
        listens="udp/67",
    )  # fmt: skip
    return server


@pytest.fixture
def client(lab, server):
    """A client's NIC that is nothing but scapy, on a cable to the server."""
    station = lab.station(server.nics["em0"], name="client")
    lab.wait_ready()
    return station


def ask(client, kind, *options):
    """What a DHCP client sends (RFC 2131, table 5)."""
    return (
        Ether(src=client.mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex(client.mac.replace(":", "")), xid=0x1234ABCD, flags="B")
        / DHCP(options=[("message-type", kind), *options, "end"])
    )


def options_of(packet):
    """The options of an answer, by name."""
    return {option[0]: option[1] for option in packet[DHCP].options if isinstance(option, tuple)}


def test_discover_offer_request_ack(lab, client):
    client.send(ask(client, "discover"))
    offer = lab.expect("server:em0", BOOTP(op=2, xid=0x1234ABCD), direction="out", within=5)
    assert options_of(offer)["message-type"] == 2
    address = offer[BOOTP].yiaddr

    client.send(ask(client, "request", ("requested_addr", address), ("server_id", SERVER)))

    *_, ack = lab.expect_order(
        "server:em0", BOOTP(op=2), BOOTP(op=2, yiaddr=address), direction="out", within=5
    )
    assert options_of(ack)["message-type"] == 5
    assert options_of(ack)["router"] == SERVER


def test_the_address_is_given_to_nobody_else(lab, client, server):
    client.send(ask(client, "discover"))
    first = lab.expect("server:em0", BOOTP(op=2), direction="out", within=5)[BOOTP].yiaddr
    client.send(ask(client, "request", ("requested_addr", first), ("server_id", SERVER)))
    lab.expect_count("server:em0", BOOTP(op=2), at_least=2, direction="out", within=5)
    lab.mark()

    client.mac = "02:00:00:00:99:99"
    client.send(ask(client, "discover"))

    second = lab.expect("server:em0", BOOTP(op=2), direction="out", within=5)[BOOTP].yiaddr
    assert second != first


def test_a_request_for_a_foreign_address_is_refused(lab, client):
    client.send(ask(client, "request", ("requested_addr", "198.51.100.7"), ("server_id", SERVER)))

    nak = lab.expect("server:em0", DHCP, direction="out", within=5)
    assert options_of(nak)["message-type"] == 6
