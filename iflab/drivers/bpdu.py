"""BPDUs as frames (IEEE 802.1D-2004, clause 9): made and read by scapy, checked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .rstp import Bpdu, BpduType, Role, Times, Vector

if TYPE_CHECKING:
    from scapy.packet import Packet

__all__ = ["GROUP", "decode", "encode", "load_scapy"]

GROUP = b"\x01\x80\xc2\x00\x00\x00"
"""The bridge group address (table 7-10)."""

_LLC = b"\x42\x42\x03"
_SHORTEST, _RST_LENGTH = 35, 36
_TC, _PROPOSAL, _LEARNING, _FORWARDING, _AGREEMENT, _TC_ACK = 0x01, 0x02, 0x10, 0x20, 0x40, 0x80
_ROLES = {1: Role.ALTERNATE, 2: Role.ROOT, 3: Role.DESIGNATED}
_MINIMUM = 60
_MAC = (1 << 48) - 1


def load_scapy() -> Any:
    """Import what frames are made of: a third of a second, once, which no BPDU should have to wait for."""
    import scapy.layers.l2

    return scapy.layers.l2


def encode(bpdu: Bpdu, source: bytes) -> bytes:
    """Make the frame of 60 octets that a port with the MAC ``source`` sends."""
    if bpdu.type is BpduType.TCN:
        return _framed(b"\x00\x00\x00\x80", source)
    vector, times = bpdu.vector, bpdu.times
    rst = bpdu.type is BpduType.RST
    role = {Role.ROOT: 2, Role.DESIGNATED: 3, Role.DISABLED: 0}.get(bpdu.role, 1) if rst else 0
    flags = (
        _TC * bpdu.tc
        | _PROPOSAL * bpdu.proposal
        | role << 2
        | _LEARNING * bpdu.learning
        | _FORWARDING * bpdu.forwarding
        | _AGREEMENT * bpdu.agreement
        | _TC_ACK * bpdu.tc_ack
    )
    stp: Packet = load_scapy().STP(
        version=2 if rst else 0,
        bpdutype=int(bpdu.type),
        bpduflags=flags,
        rootid=vector.root >> 48,
        rootmac=(vector.root & _MAC).to_bytes(6, "big").hex(":"),
        pathcost=vector.cost,
        bridgeid=vector.bridge >> 48,
        bridgemac=(vector.bridge & _MAC).to_bytes(6, "big").hex(":"),
        portid=vector.port,
        age=times.message_age,
        maxage=times.max_age,
        hellotime=times.hello,
        fwddelay=times.forward_delay,
    )
    # The last octet of an RST BPDU is the length of version 1's information: there is none.
    return _framed(bytes(stp) + b"\0" * rst, source)


def _framed(body: bytes, source: bytes) -> bytes:
    """Put the 802.3 and LLC headers in front; by hand, for scapy takes as long for them as for the BPDU."""
    length = (len(_LLC) + len(body)).to_bytes(2, "big")
    return b"".join((GROUP, source, length, _LLC, body)).ljust(_MINIMUM, b"\0")


def decode(frame: bytes) -> Bpdu | None:
    """Read a frame to the bridge group; None for one that must be passed over (9.3.4)."""
    length = int.from_bytes(frame[12:14], "big")
    body = frame[17 : 14 + length]
    if frame[14:17] != _LLC or length > 1500 or len(body) < 4 or body[:2] != b"\0\0":
        return None
    kind = body[3]
    if kind == BpduType.TCN:
        return Bpdu(BpduType.TCN)
    rst = kind == BpduType.RST and body[2] >= 2
    if len(body) < (_RST_LENGTH if rst else _SHORTEST) or not (rst or kind == BpduType.CONFIG):
        return None
    stp = load_scapy().STP(body[:_SHORTEST])
    times = Times(int(stp.age), int(stp.maxage), int(stp.hellotime), int(stp.fwddelay))
    vector = Vector(_id(stp.rootid, stp.rootmac), stp.pathcost, _id(stp.bridgeid, stp.bridgemac), stp.portid)
    if not rst:
        if times.message_age >= times.max_age:
            return None
        tc, ack = bool(stp.bpduflags & _TC), bool(stp.bpduflags & _TC_ACK)
        return Bpdu(BpduType.CONFIG, vector, times, Role.DESIGNATED, tc=tc, tc_ack=ack)
    flags = stp.bpduflags
    role = _ROLES.get(flags >> 2 & 3)
    if role is None:
        return None
    return Bpdu(
        BpduType.RST,
        vector,
        times,
        role,
        tc=bool(flags & _TC),
        proposal=bool(flags & _PROPOSAL),
        agreement=bool(flags & _AGREEMENT),
        learning=bool(flags & _LEARNING),
        forwarding=bool(flags & _FORWARDING),
    )


def _id(priority: int, mac: str) -> int:
    return priority << 48 | int.from_bytes(bytes.fromhex(mac.replace(":", "")), "big")
