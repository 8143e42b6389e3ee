"""Rapid spanning tree (IEEE 802.1D-2004, clause 17; first IEEE 802.1w), and its older relative for neighbours
that know no better (IEEE 802.1D-1998).

No frame is forwarded here and no time passes by itself: ``Rstp`` is told of ports,
links, BPDUs and seconds, and tells its owner what to send, which port may learn and
forward, and when what a port has learned is void::

    owner                                     Rstp
      port_enabled(port, up)   ------------>
      received(port, bpdu)     ------------>  per port: PIM  PRT  PST  TCM  PPM  BDM  PTX
      tick()  every second     ------------>  for all ports: PRS
                               <------------  transmit(port, bpdu)
                               <------------  state_changed(port)
                               <------------  flush(port)

The state machines have the names of the standard, and so have variables and
conditions (17.19, 17.20), so each can be compared with its figure; ``run`` turns all
of them until none moves. Timers count whole seconds. Fast transitions wait for none.

Left out: the management counters of 17.22 and per-VLAN trees (MSTP).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Bpdu", "BpduType", "InfoIs", "Role", "Rstp", "State", "StpPort", "Times", "Vector"]

MIGRATE_TIME = 3
"""Seconds before a port may judge again which protocol its neighbour speaks (table 17-1)."""
_MOST_TURNS = 1000


class Role(enum.IntEnum):
    """What a port is to the tree (17.7)."""

    DISABLED = 0
    ALTERNATE = 1
    BACKUP = 2
    ROOT = 3
    DESIGNATED = 4


class State(enum.IntEnum):
    """What a port does with frames (7.4)."""

    DISCARDING = 0
    LEARNING = 1
    FORWARDING = 2


class InfoIs(enum.IntEnum):
    """Where the information of a port comes from (17.19.10)."""

    DISABLED = 0
    AGED = 1
    MINE = 2
    RECEIVED = 3


class BpduType(enum.IntEnum):
    """Kinds of BPDU (9.3)."""

    CONFIG = 0x00
    RST = 0x02
    TCN = 0x80


class Vector(NamedTuple):
    """A priority vector (17.5); the smaller is the better one."""

    root: int
    """Bridge identifier: priority in the upper 16 bits, MAC in the lower 48."""
    cost: int
    bridge: int
    port: int
    """Port identifier: priority in the upper 4 bits of 16, number in the lower 12."""


class Times(NamedTuple):
    """Seconds, as a bridge or a message says (17.13)."""

    message_age: int
    max_age: int
    hello: int
    forward_delay: int


_NO_VECTOR = Vector(0, 0, 0, 0)
_DEFAULT_TIMES = Times(0, 20, 2, 15)


@dataclass(slots=True, frozen=True)
class Bpdu:
    """A BPDU in the terms of the machines; ``role`` is the sender's port's."""

    type: BpduType
    vector: Vector = _NO_VECTOR
    times: Times = _DEFAULT_TIMES
    role: Role = Role.DESIGNATED
    tc: bool = False
    tc_ack: bool = False
    proposal: bool = False
    agreement: bool = False
    learning: bool = False
    forwarding: bool = False


@dataclass(slots=True, eq=False)
class StpPort:
    """A port; fields are the variables of 17.19, in the standard's words."""

    name: str
    number: int
    priority: int = 128
    path_cost: int = 2000
    admin_edge: bool = False
    auto_edge: bool = True
    point_to_point: bool = True

    port_enabled: bool = False
    role: Role = Role.DISABLED
    selected_role: Role = Role.DISABLED
    info_is: InfoIs = InfoIs.DISABLED
    # flags
    learn: bool = False
    learning: bool = False
    forward: bool = False
    forwarding: bool = False
    agree: bool = False
    agreed: bool = False
    proposed: bool = False
    proposing: bool = False
    sync: bool = False
    synced: bool = False
    re_root: bool = False
    disputed: bool = False
    selected: bool = False
    reselect: bool = True
    updt_info: bool = False
    new_info: bool = True
    oper_edge: bool = False
    mcheck: bool = False
    send_rstp: bool = True
    rcvd_msg: Bpdu | None = None
    rcvd_bpdu: Bpdu | None = None
    rcvd_rstp: bool = False
    rcvd_stp: bool = False
    rcvd_tc: bool = False
    rcvd_tcn: bool = False
    rcvd_tc_ack: bool = False
    tc_ack: bool = False
    tc_prop: bool = False
    # vectors
    port_priority: Vector = _NO_VECTOR
    port_times: Times = _DEFAULT_TIMES
    designated_priority: Vector = _NO_VECTOR
    designated_times: Times = _DEFAULT_TIMES
    # timers, seconds
    edge_delay_while: int = MIGRATE_TIME
    fd_while: int = 0
    hello_when: int = 0
    mdelay_while: int = MIGRATE_TIME
    rb_while: int = 0
    rcvd_info_while: int = 0
    rr_while: int = 0
    tc_while: int = 0
    tx_count: int = 0
    # where the machines that have more than one state to be in stand
    pim: str = "DISABLED"
    ppm: str = "CHECKING_RSTP"
    tcm: str = "INACTIVE"
    told: State = State.DISCARDING
    """The state that the owner knows."""

    @property
    def id(self) -> int:
        """The port identifier (9.2.7)."""
        return (self.priority & 0xF0) << 8 | self.number & 0xFFF

    @property
    def state(self) -> State:
        """Whether it discards, learns or forwards."""
        return State.FORWARDING if self.forwarding else State.LEARNING if self.learning else State.DISCARDING


_TIMERS = (
    "edge_delay_while",
    "fd_while",
    "hello_when",
    "mdelay_while",
    "rb_while",
    "rcvd_info_while",
    "rr_while",
    "tc_while",
    "tx_count",
)


@dataclass(eq=False)
class Rstp:
    """One bridge's spanning tree.

    ``transmit``, ``state_changed`` and ``flush`` are the owner's. ``rstp`` False
    speaks 802.1D-1998 only (``force_protocol_version`` 0).
    """

    mac: bytes
    transmit: Callable[[StpPort, Bpdu], None]
    state_changed: Callable[[StpPort], None]
    flush: Callable[[StpPort], None]
    priority: int = 32768
    hello: int = 2
    max_age: int = 20
    forward_delay: int = 15
    tx_hold_count: int = 6
    rstp: bool = True
    ports: list[StpPort] = field(default_factory=list)
    root_priority: Vector = _NO_VECTOR
    root_times: Times = _DEFAULT_TIMES
    root_port: StpPort | None = None
    topology_changes: int = 0
    _running: bool = False

    def __post_init__(self) -> None:
        self.root_priority = Vector(self.id, 0, self.id, 0)
        self.root_times = self.bridge_times

    @property
    def id(self) -> int:
        """The bridge identifier (9.2.5)."""
        return self.priority << 48 | int.from_bytes(self.mac, "big")

    @property
    def bridge_times(self) -> Times:
        """The times that hold where this bridge is the root (17.18.4)."""
        return Times(0, self.max_age, self.hello, self.forward_delay)

    @property
    def is_root(self) -> bool:
        """True while it is the root of the tree."""
        return self.root_priority.root == self.id

    # what the owner tells

    def add(self, port: StpPort) -> None:
        """Take a port in, disabled."""
        self.ports.append(port)
        self._begin(port)
        self.run()

    def remove(self, port: StpPort) -> None:
        """Let a port go."""
        self.port_enabled(port, False)
        self.ports.remove(port)
        self.reselect()

    def port_enabled(self, port: StpPort, up: bool) -> None:
        """The port's link came or went."""
        if port.port_enabled != up:
            port.port_enabled = up
            self.run()

    def received(self, port: StpPort, bpdu: Bpdu) -> None:
        """A BPDU came in."""
        port.rcvd_bpdu = bpdu
        self.run()

    def tick(self) -> None:
        """A second has passed (17.22)."""
        for port in self.ports:
            for timer in _TIMERS:
                value = getattr(port, timer)
                if value:
                    setattr(port, timer, value - 1)
        self.run()

    def reselect(self) -> None:
        """Something that was configured changed: choose all roles anew."""
        for port in self.ports:
            port.reselect, port.selected = True, False
        self.run()
        if not self.ports:
            self._updt_roles_tree()

    def restart(self) -> None:
        """Begin again, as after a change of MAC or protocol version (BEGIN)."""
        for port in self.ports:
            self._begin(port)
        self.run()

    def migration_check(self, port: StpPort) -> None:
        """Find out again whether the neighbour speaks RSTP (17.19.13)."""
        port.mcheck = True
        self.run()

    # the machines

    def _begin(self, port: StpPort) -> None:
        self._disabled_info(port)
        port.role = port.selected_role = Role.DISABLED
        port.learn = port.forward = port.learning = port.forwarding = False
        port.oper_edge = port.admin_edge
        port.edge_delay_while = MIGRATE_TIME
        port.fd_while, port.rr_while, port.rb_while, port.tc_while = self.max_age, 0, 0, 0
        port.synced, port.sync, port.re_root = True, False, False
        port.tcm, port.tc_ack = "INACTIVE", False
        port.new_info, port.tx_count, port.hello_when = False, 0, self.hello
        self._checking_rstp(port)
        self._tell_state(port)

    def run(self) -> None:
        """Turn all machines until none moves."""
        if self._running:
            return
        self._running = True
        try:
            for _ in range(_MOST_TURNS):
                moved = False
                for port in self.ports:
                    moved |= self._prx(port) | self._ppm(port) | self._bdm(port) | self._pim(port)
                if any(port.reselect for port in self.ports):
                    self._prs()
                    moved = True
                for port in self.ports:
                    moved |= self._prt(port) | self._pst(port) | self._tcm(port)
                for port in self.ports:
                    moved |= self._ptx(port)
                if not moved:
                    return
            raise RuntimeError("the spanning tree's machines found no rest")
        finally:
            self._running = False

    # 17.23: port receive

    def _prx(self, port: StpPort) -> bool:
        if not port.port_enabled:
            moved = port.rcvd_bpdu is not None or port.edge_delay_while != MIGRATE_TIME
            port.rcvd_bpdu = port.rcvd_msg = None
            port.rcvd_rstp = port.rcvd_stp = False
            port.edge_delay_while = MIGRATE_TIME
            return moved
        if port.rcvd_bpdu is None or port.rcvd_msg is not None:
            return False
        bpdu, port.rcvd_bpdu = port.rcvd_bpdu, None
        if bpdu.type is BpduType.RST and self.rstp:
            port.rcvd_rstp = True
        elif bpdu.type is not BpduType.RST:
            port.rcvd_stp = True
        port.oper_edge = False
        port.rcvd_msg = bpdu
        port.edge_delay_while = MIGRATE_TIME
        return True

    # 17.24: protocol migration

    def _checking_rstp(self, port: StpPort) -> None:
        port.ppm = "CHECKING_RSTP"
        port.mcheck = False
        port.send_rstp = self.rstp
        port.mdelay_while = MIGRATE_TIME

    def _ppm(self, port: StpPort) -> bool:
        if port.ppm == "CHECKING_RSTP":
            if not port.port_enabled:
                if port.mdelay_while == MIGRATE_TIME:
                    return False
                self._checking_rstp(port)
                return True
            if port.mdelay_while:
                return False
            return self._sensing(port)
        if port.ppm == "SELECTING_STP":
            if port.mdelay_while and port.port_enabled and not port.mcheck:
                return False
            return self._sensing(port)
        if not port.port_enabled or port.mcheck or (self.rstp and not port.send_rstp and port.rcvd_rstp):
            self._checking_rstp(port)
            return True
        if port.send_rstp and port.rcvd_stp:
            port.ppm = "SELECTING_STP"
            port.send_rstp = False
            port.mdelay_while = MIGRATE_TIME
            return True
        return False

    @staticmethod
    def _sensing(port: StpPort) -> bool:
        port.ppm = "SENSING"
        port.rcvd_rstp = port.rcvd_stp = False
        return True

    # 17.25: bridge detection

    def _bdm(self, port: StpPort) -> bool:
        if port.oper_edge:
            if not port.port_enabled and not port.admin_edge:
                port.oper_edge = False
                return True
            return False
        if (not port.port_enabled and port.admin_edge) or (
            port.edge_delay_while == 0 and port.auto_edge and port.send_rstp and port.proposing
        ):
            port.oper_edge = True
            return True
        return False

    # 17.27: port information

    @staticmethod
    def _disabled_info(port: StpPort) -> None:
        port.pim = "DISABLED"
        port.rcvd_msg = None
        port.proposing = port.proposed = port.agree = port.agreed = False
        port.rcvd_info_while = 0
        port.info_is = InfoIs.DISABLED
        port.reselect, port.selected = True, False

    def _pim(self, port: StpPort) -> bool:
        if not port.port_enabled:
            if port.info_is is InfoIs.DISABLED:
                port.rcvd_msg = None
                return False
            self._disabled_info(port)
            return True
        if port.pim == "DISABLED":
            return self._aged(port)
        if port.selected and port.updt_info:
            port.proposing = port.proposed = False
            port.agreed = port.agreed and self._better_or_same(port, InfoIs.MINE)
            port.synced = port.synced and port.agreed
            port.port_priority = port.designated_priority
            port.port_times = port.designated_times
            port.updt_info = False
            port.info_is = InfoIs.MINE
            port.new_info = True
            port.pim = "CURRENT"
            return True
        if port.pim != "CURRENT":
            return False
        if port.rcvd_msg is not None and not port.updt_info:
            self._receive(port, port.rcvd_msg)
            port.rcvd_msg = None
            return True
        if port.info_is is InfoIs.RECEIVED and not port.rcvd_info_while and not port.updt_info:
            return self._aged(port)
        return False

    @staticmethod
    def _aged(port: StpPort) -> bool:
        port.pim = "AGED"
        port.info_is = InfoIs.AGED
        port.reselect, port.selected = True, False
        return True

    @staticmethod
    def _better_or_same(port: StpPort, new: InfoIs, message: Vector | None = None) -> bool:
        """17.21.1."""
        if new is InfoIs.RECEIVED:
            return port.info_is is InfoIs.RECEIVED and message is not None and message <= port.port_priority
        return port.info_is is InfoIs.MINE and port.designated_priority <= port.port_priority

    def _receive(self, port: StpPort, bpdu: Bpdu) -> None:
        """Judge a message (``rcvInfo``, 17.21.8) and record what follows of it."""
        if bpdu.type is BpduType.TCN:
            port.rcvd_tcn = True
            return
        message, mine = bpdu.vector, port.port_priority
        if bpdu.role is not Role.DESIGNATED:
            if message >= mine and bpdu.role in (Role.ROOT, Role.ALTERNATE, Role.BACKUP):
                self._record_agreement(port, bpdu)
                self._set_tc_flags(port, bpdu)
            return
        same_sender = (message.bridge & (1 << 48) - 1, message.port & 0xFFF) == (
            mine.bridge & (1 << 48) - 1,
            mine.port & 0xFFF,
        )
        same = message == mine and bpdu.times == port.port_times
        if same and port.info_is is InfoIs.RECEIVED:
            self._record_proposal(port, bpdu)
            self._set_tc_flags(port, bpdu)
            self._updt_rcvd_info_while(port)
        elif message < mine or (same_sender and not same):
            port.agreed = port.proposing = False
            self._record_proposal(port, bpdu)
            self._set_tc_flags(port, bpdu)
            port.agree = port.agree and self._better_or_same(port, InfoIs.RECEIVED, message)
            port.port_priority = message
            port.port_times = bpdu.times
            self._updt_rcvd_info_while(port)
            port.info_is = InfoIs.RECEIVED
            port.reselect, port.selected = True, False
        elif bpdu.type is BpduType.RST and bpdu.learning:  # recordDispute, 17.21.10
            port.disputed, port.agreed = True, False

    def _record_agreement(self, port: StpPort, bpdu: Bpdu) -> None:
        port.agreed = self.rstp and port.point_to_point and bpdu.type is BpduType.RST and bpdu.agreement
        if port.agreed:
            port.proposing = False

    @staticmethod
    def _record_proposal(port: StpPort, bpdu: Bpdu) -> None:
        port.proposed |= bpdu.type is BpduType.RST and bpdu.proposal

    @staticmethod
    def _set_tc_flags(port: StpPort, bpdu: Bpdu) -> None:
        port.rcvd_tc |= bpdu.tc
        port.rcvd_tc_ack |= bpdu.type is BpduType.CONFIG and bpdu.tc_ack

    @staticmethod
    def _updt_rcvd_info_while(port: StpPort) -> None:
        times = port.port_times
        port.rcvd_info_while = 3 * times.hello if times.message_age + 1 <= times.max_age else 0

    # 17.28: port role selection, for the whole bridge

    def _prs(self) -> None:
        for port in self.ports:
            port.reselect = False
        self._updt_roles_tree()
        if not any(port.reselect for port in self.ports):
            for port in self.ports:
                port.selected = True

    def _updt_roles_tree(self) -> None:
        """17.21.25."""
        best = (Vector(self.id, 0, self.id, 0), 0)
        self.root_port, times = None, self.bridge_times
        for port in self.ports:
            if port.info_is is not InfoIs.RECEIVED or port.port_priority.bridge == self.id:
                continue
            vector = port.port_priority._replace(cost=port.port_priority.cost + port.path_cost)
            if (vector, port.id) < best:
                best, self.root_port = (vector, port.id), port
                times = port.port_times._replace(message_age=port.port_times.message_age + 1)
        self.root_priority, self.root_times = best[0], times
        for port in self.ports:
            port.designated_priority = Vector(best[0].root, best[0].cost, self.id, port.id)
            port.designated_times = times._replace(hello=self.hello)
            self._choose_role(port)

    def _choose_role(self, port: StpPort) -> None:
        port.updt_info = False
        if port.info_is is InfoIs.DISABLED:
            port.selected_role = Role.DISABLED
        elif port.info_is is InfoIs.AGED:
            port.updt_info, port.selected_role = True, Role.DESIGNATED
        elif port.info_is is InfoIs.MINE:
            port.selected_role = Role.DESIGNATED
            port.updt_info = (port.port_priority, port.port_times) != (
                port.designated_priority,
                port.designated_times,
            )
        elif port is self.root_port:
            port.selected_role = Role.ROOT
        elif port.designated_priority < port.port_priority:
            port.updt_info, port.selected_role = True, Role.DESIGNATED
        else:
            backup = port.port_priority.bridge == self.id
            port.selected_role = Role.BACKUP if backup else Role.ALTERNATE

    # 17.29: port role transitions

    def _prt(self, port: StpPort) -> bool:
        if not port.selected or port.updt_info:
            return False
        if port.role is not port.selected_role:
            port.role = port.selected_role
            if port.role is Role.ROOT:
                port.rr_while = self.root_times.forward_delay
            elif port.role is not Role.DESIGNATED:
                port.learn = port.forward = False
            return True
        if port.role is Role.ROOT:
            return self._root_port(port)
        if port.role is Role.DESIGNATED:
            return self._designated_port(port)
        return self._blocked_port(port)

    def _forward_delay(self, port: StpPort) -> int:
        """``forwardDelay``, 17.20.5."""
        return self.root_times.hello if port.send_rstp else self.root_times.forward_delay

    def _all_synced(self) -> bool:
        return all(
            port.selected
            and port.role is port.selected_role
            and not port.updt_info
            and (port.synced or port.role is Role.ROOT)
            for port in self.ports
        )

    def _re_rooted(self, port: StpPort) -> bool:
        return all(other.rr_while == 0 for other in self.ports if other is not port)

    def _agree(self, port: StpPort) -> bool:
        """What root and alternate ports do about proposals."""
        if port.proposed and not port.agree:
            for each in self.ports:
                each.sync = True
            port.proposed = False
            return True
        if (self._all_synced() and not port.agree) or (port.proposed and port.agree):
            port.proposed = port.sync = False
            port.agree = port.new_info = True
            return True
        return False

    def _root_port(self, port: StpPort) -> bool:
        if self._agree(port):
            return True
        if not port.forward and not port.re_root:
            for each in self.ports:
                each.re_root = True
            return True
        if port.rr_while != self.root_times.forward_delay:
            port.rr_while = self.root_times.forward_delay
            return True
        if port.re_root and port.forward:
            port.re_root = False
            return True
        if port.fd_while == 0 or (self._re_rooted(port) and port.rb_while == 0 and self.rstp):
            if not port.learn:
                port.fd_while = self._forward_delay(port)
                port.learn = True
                return True
            if not port.forward:
                port.fd_while = 0
                port.forward = True
                return True
        return False

    def _designated_port(self, port: StpPort) -> bool:
        if not (port.forward or port.agreed or port.proposing or port.oper_edge):
            port.proposing = port.new_info = True
            port.edge_delay_while = MIGRATE_TIME if port.point_to_point else self.root_times.max_age
            return True
        silent = not port.learning and not port.forwarding
        if (not port.synced and (silent or port.agreed or port.oper_edge)) or (port.sync and port.synced):
            port.rr_while = 0
            port.synced, port.sync = True, False
            return True
        if port.re_root and port.rr_while == 0:
            port.re_root = False
            return True
        if (
            ((port.sync and not port.synced) or (port.re_root and port.rr_while) or port.disputed)
            and not port.oper_edge
            and (port.learn or port.forward)
        ):
            port.learn = port.forward = port.disputed = False
            port.fd_while = self._forward_delay(port)
            return True
        if (
            (port.fd_while == 0 or port.agreed or port.oper_edge)
            and (port.rr_while == 0 or not port.re_root)
            and not port.sync
        ):
            if not port.learn:
                port.learn = True
                port.fd_while = self._forward_delay(port)
                return True
            if not port.forward:
                port.forward = True
                port.fd_while = 0
                port.agreed = port.send_rstp
                return True
        return False

    def _blocked_port(self, port: StpPort) -> bool:
        """Alternate, backup and disabled ports, once they neither learn nor forward."""
        if port.learning or port.forwarding:
            return False
        disabled = port.role is Role.DISABLED
        if not disabled and self._agree(port):
            return True
        if port.role is Role.BACKUP and port.rb_while != 2 * self.root_times.hello:
            port.rb_while = 2 * self.root_times.hello
            return True
        delay = self.root_times.max_age if disabled else self._forward_delay(port)
        if port.fd_while != delay or port.sync or port.re_root or not port.synced:
            port.fd_while, port.rr_while = delay, 0
            port.synced, port.sync, port.re_root = True, False, False
            return True
        return False

    # 17.30: port state transition

    def _pst(self, port: StpPort) -> bool:
        before = port.state
        if not port.learn:
            port.learning = port.forwarding = False
        elif not port.learning:
            port.learning = True
        elif port.forward != port.forwarding:
            port.forwarding = port.forward
            if not port.forward:
                port.learning = False
        if port.state is before:
            return False
        self._tell_state(port)
        return True

    def _tell_state(self, port: StpPort) -> None:
        if port.told is not port.state:
            port.told = port.state
            self.state_changed(port)

    # 17.31: topology change

    def _tcm(self, port: StpPort) -> bool:
        active_role = port.role in (Role.ROOT, Role.DESIGNATED)
        noise = port.rcvd_tc or port.rcvd_tcn or port.rcvd_tc_ack or port.tc_prop
        if port.tcm == "INACTIVE":
            if not port.learn:
                return False
            port.tcm = "LEARNING"
            self._quiet(port)
            return True
        if port.tcm == "LEARNING":
            if active_role and port.forward and not port.oper_edge:
                self._new_tc_while(port)
                self._set_tc_prop_tree(port)
                port.new_info = True
                port.tcm = "ACTIVE"
                self.topology_changes += 1
                return True
            if noise:
                self._quiet(port)
                return True
            if not active_role and not (port.learn or port.learning):
                port.tcm = "INACTIVE"
                port.tc_while, port.tc_ack = 0, False
                self.flush(port)
                return True
            return False
        if not active_role or port.oper_edge:
            port.tcm = "LEARNING"
            return True
        if port.rcvd_tcn or port.rcvd_tc:
            if port.rcvd_tcn:
                self._new_tc_while(port)
            port.rcvd_tcn = port.rcvd_tc = False
            if port.role is Role.DESIGNATED:
                port.tc_ack = True
            self._set_tc_prop_tree(port)
            return True
        if port.tc_prop:
            self._new_tc_while(port)
            port.tc_prop = False
            self.flush(port)
            return True
        if port.rcvd_tc_ack:
            port.tc_while, port.rcvd_tc_ack = 0, False
            return True
        return False

    @staticmethod
    def _quiet(port: StpPort) -> None:
        port.rcvd_tc = port.rcvd_tcn = port.rcvd_tc_ack = port.tc_prop = False

    def _new_tc_while(self, port: StpPort) -> None:
        """17.21.7."""
        if port.tc_while == 0:
            if port.send_rstp:
                port.tc_while = self.root_times.hello + 1
                port.new_info = True
            else:
                port.tc_while = self.root_times.max_age + self.root_times.forward_delay

    def _set_tc_prop_tree(self, port: StpPort) -> None:
        for other in self.ports:
            if other is not port:
                other.tc_prop = True

    # 17.26: port transmit

    def _ptx(self, port: StpPort) -> bool:
        if not port.selected or port.updt_info or not port.port_enabled:
            return False
        if port.hello_when == 0:
            port.new_info |= port.role is Role.DESIGNATED or (port.role is Role.ROOT and port.tc_while != 0)
            port.hello_when = self.hello
            return True
        if not port.new_info or port.tx_count >= self.tx_hold_count:
            return False
        if port.send_rstp:
            self._send(port, BpduType.RST)
        elif port.role is Role.DESIGNATED:
            self._send(port, BpduType.CONFIG)
        elif port.role is Role.ROOT:
            self._send(port, BpduType.TCN)
        else:
            return False
        return True

    def _send(self, port: StpPort, kind: BpduType) -> None:
        port.new_info = False
        port.tx_count += 1
        port.hello_when = self.hello
        if kind is BpduType.TCN:
            self.transmit(port, Bpdu(kind))
            return
        rst = kind is BpduType.RST
        bpdu = Bpdu(
            kind,
            port.designated_priority,
            port.designated_times,
            port.role if rst else Role.DESIGNATED,
            tc=port.tc_while != 0,
            tc_ack=port.tc_ack and not rst,
            proposal=rst and port.proposing and port.role is Role.DESIGNATED,
            agreement=rst and port.agree and port.role is not Role.DESIGNATED,
            learning=rst and port.learning,
            forwarding=rst and port.forwarding,
        )
        port.tc_ack = False
        self.transmit(port, bpdu)

    def roles(self) -> Iterator[tuple[str, Role, State]]:
        """Every port with its role and state."""
        for port in self.ports:
            yield port.name, port.role, port.state
