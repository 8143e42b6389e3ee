"""Many frames in one turn: written in one system call, or super-frames one after the other; counted like all others."""

import errno
import itertools
import os
import resource
import socket
import threading
import types
from functools import partial
from pathlib import Path

import psutil
import pytest

from iflab import Lab
from iflab.drivers import express
from iflab.engine import Engine
from iflab.linux import Batch, Netns, Tap, aio
from iflab.net import Kernel

from ..linux_tools import eventually, kernel_has, real_root, without_ipv6
from ..patience import PATIENCE

FRAME = bytes(10) + b"\xff" * 6 + bytes(54)
UDP_SEGMENT = 103  # include/uapi/linux/udp.h
CHUNKS, WAITING = 20, 400
"""Datagrams that wait together, fewer than a TAP's queue takes (1,000)."""

SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h


@pytest.fixture
def batch():
    made = Batch()
    yield made
    made.close()


@pytest.fixture
def messages():
    """Both ends of a connection that keeps what was written in one call together."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        other.setblocking(False)
        yield one, other


def test_each_is_written_by_itself_and_in_order(batch, messages):
    one, other = messages
    sent = [bytes([number]) * (number + 1) for number in range(100)]

    assert batch.write(one.fileno(), sent) == list(range(1, 101))
    assert [other.recv(200) for _ in sent] == sent
    with pytest.raises(BlockingIOError):
        other.recv(200)


def test_one_file_after_another(batch, messages):
    one, other = messages
    for number in range(3):
        assert batch.write(one.fileno(), [b"to other", bytes(number + 1)]) == [8, number + 1]
        assert batch.write(other.fileno(), [b"to one"]) == [6]
        assert [other.recv(200), other.recv(200)] == [b"to other", bytes(number + 1)]
        assert one.recv(200) == b"to one"


@pytest.mark.parametrize(
    ("length", "count"), [(1, 3 * aio.MOST + 1), (65536, 20), (8952, 240)], ids=["many", "long", "jumbo"]
)
def test_what_does_not_fit_in_one_call_takes_more(batch, tmp_path, length, count):
    path = tmp_path / "file"
    buffers = [number.to_bytes(2, "big") + bytes(length) for number in range(count)]

    with path.open("ab", buffering=0) as file:  # where each write goes to the end
        assert batch.write(file.fileno(), buffers) == [length + 2] * count

    assert path.read_bytes() == b"".join(buffers)


def test_what_the_kernel_did_not_take_at_once_is_written_all_the_same(batch, messages, monkeypatch):
    one, other = messages
    submit = aio._io_submit
    monkeypatch.setattr(aio, "_io_submit", lambda number, context, count, at: submit(number, context, 3, at))

    assert batch.write(one.fileno(), [bytes(number) for number in range(1, 9)]) == list(range(1, 9))
    assert [len(other.recv(200)) for _ in range(8)] == list(range(1, 9))


def test_when_the_kernel_takes_the_first_half_only_the_rest_goes_one_by_one(batch, tmp_path, monkeypatch):
    path = tmp_path / "file"
    submit, left = aio._io_submit, [1]
    monkeypatch.setattr(aio, "_io_submit", lambda *words: submit(*words) if left and left.pop() else -1)
    buffers = [number.to_bytes(2, "big") for number in range(2 * aio.MOST)]

    with path.open("ab", buffering=0) as file:
        assert batch.write(file.fileno(), buffers) == [2] * len(buffers)

    assert left == []
    assert path.read_bytes() == b"".join(buffers)


def test_closed_it_writes_no_more(batch, messages):
    one, _ = messages
    contexts = Path("/proc/sys/fs/aio-nr")
    assert batch.write(one.fileno(), [b"x"]) == [1]
    assert int(contexts.read_text()) > 0
    batch.close()
    assert batch.write(one.fileno(), [b"x"]) is None
    batch.close()


def test_a_closed_file_takes_nothing(batch):
    assert batch.write(2**20, [b"x", b"y"]) is None
    assert batch.write(-1, [b"x", b"y"]) is None


@real_root
def test_a_lab_that_ends_gives_back_what_it_took():
    with Lab(control=False) as lab:
        alice, bob, _ = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        together(bob.nics["em0"])
        assert alice.ping("192.0.2.2").received == 1
        flood(alice, bob)
        assert lab.engine.batch._calls is not None
    assert lab.engine.batch._calls is None


def test_a_kernel_that_refuses_is_not_asked_again(batch, messages, monkeypatch):
    asked = []

    def calls(numbers):
        asked.append(numbers)
        raise OSError(errno.ENOSYS, "io_setup")

    monkeypatch.setattr(aio, "_Calls", calls)
    assert batch.write(messages[0].fileno(), [b"x"]) is None
    assert batch.write(messages[0].fileno(), [b"x"]) is None
    assert len(asked) == 1


def test_a_tap_says_of_each_frame_why_not(batch):
    with Netns.create("host") as netns:
        tap = Tap.create(netns, "em0")
        try:
            assert batch.write(tap.fd, [FRAME] * 3) == [-errno.EIO] * 3  # it is down
        finally:
            tap.close()


def together(nic, on=True):
    """Have a NIC write frames together, or never, whatever it would find best."""
    nic.if_softc._together, nic.if_softc._writes = on, 10**9


def kernel(host):
    return host.call(psutil.net_io_counters, pernic=True, nowrap=False)["em0"]


@pytest.fixture
def pair(lab):
    alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    without_ipv6(alice, bob)
    assert alice.ping("192.0.2.2").received == 1
    return alice, bob, cable


def flood(alice, bob):
    """Datagrams of alice's, each with its number, that wait together; returns the numbers that bob's program received."""
    arrived = bob.nics["em0"]
    with (
        bob.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        sink.settimeout(10 * PATIENCE)
        sink.bind(("192.0.2.2", 0))
        for chunk in range(CHUNKS):
            due = arrived.if_ipackets + WAITING
            with bob.lab.lock:
                for number in range(chunk * WAITING, (chunk + 1) * WAITING):
                    source.sendto(number.to_bytes(4, "big"), sink.getsockname())
            eventually(lambda due=due: arrived.if_ipackets >= due)
        return [int.from_bytes(sink.recv(100), "big") for _ in range(CHUNKS * WAITING)]


@pytest.mark.parametrize("how", ["together", "one by one", "refused"])
@real_root
def test_datagrams_arrive_once_in_order_and_counted(pair, monkeypatch, how):
    alice, bob, cable = pair
    em0 = bob.nics["em0"]
    calls = []

    batch = bob.lab.engine.batch
    write = batch.write

    def counted(fd, frames):
        results = None if how == "refused" else write(fd, frames)
        calls.append(results)
        return results

    monkeypatch.setattr(batch, "write", counted)
    together(em0, how != "one by one")
    before, packets = kernel(bob), em0.if_ipackets

    received = flood(alice, bob)

    assert received == list(range(CHUNKS * WAITING))
    assert kernel(bob).packets_recv - before.packets_recv == em0.if_ipackets - packets >= len(received)
    assert em0.if_softc.refused == 0
    assert cable.account().balances()
    if how == "together":
        assert sum(len(results) for results in calls) > CHUNKS * WAITING / 2
        assert min(min(results) for results in calls) > 0
    else:
        assert bool(calls) == (how == "refused")


@pytest.mark.parametrize("switches", [0, 1000], ids=["undisturbed", "disturbed"])
@real_root
def test_a_nic_that_is_disturbed_while_it_writes_does_so_together(pair, monkeypatch, switches):
    alice, bob, _ = pair
    looks = []

    def getrusage(who):
        looks.append(who)
        return types.SimpleNamespace(ru_nivcsw=len(looks) * switches)

    monkeypatch.setattr("iflab.drivers.express.getrusage", getrusage)

    assert flood(alice, bob) == list(range(CHUNKS * WAITING))

    assert set(looks) == {resource.RUSAGE_THREAD}
    assert len(looks) % 2 == 0
    assert bob.nics["em0"].if_softc._together == bool(switches)


@pytest.mark.parametrize("as_one", [True, False], ids=["together", "one by one"])
def test_each_frame_that_the_kernel_refuses_is_an_error(pair, as_one):
    _, bob, _ = pair
    em0 = bob.nics["em0"]
    nic = em0.if_softc
    together(em0, as_one)
    with bob.lab.lock:
        bob.run("ip link set em0 down", check=True)
        errors, refused = em0.if_ierrors, nic.refused
        nic._write([FRAME] * 20)
        assert (em0.if_ierrors - errors, nic.refused - refused) == (20, 20)


def test_a_host_that_goes_down_and_comes_back_loses_no_account(pair):
    alice, bob, cable = pair
    em0 = bob.nics["em0"]
    together(em0)
    nic = em0.if_softc
    alice.run(
        "ip neigh replace 192.0.2.2 lladdr " + em0.lladdr.hex(":") + " dev em0 nud permanent", check=True
    )

    with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:

        def send():
            while not stop.is_set():
                for _ in range(200):
                    source.sendto(b"x", ("192.0.2.2", 9))

        stop = threading.Event()
        thread = threading.Thread(target=send)
        thread.start()
        try:
            for _ in range(5):
                eventually(lambda before=em0.if_ipackets: em0.if_ipackets > before + 1000)
                bob.run("ip link set em0 down", check=True)
                bob.run("ip link set em0 up", check=True)
        finally:
            stop.set()
            thread.join()
    eventually(lambda: alice.ping("192.0.2.2").received == 1)

    account = cable.account()
    assert account.balances()
    lost = em0.if_iqdrops + em0.if_ierrors + nic.filtered - nic.refused
    with bob.lab.lock:
        assert em0.if_ipackets + lost == alice.nics["em0"].if_softc.end.flow.delivered


@pytest.mark.parametrize(
    ("waiting", "due", "unhurried"), [(2, None, True), (3, None, False), (1, 0.001, False), (1, 60, True)]
)
def test_turns_are_long_when_nobody_else_waits(waiting, due, unhurried):
    kernel = Kernel()
    engine = Engine(kernel.giant, kernel.taskqueue_swi, "test")
    found = []
    pipes = [os.pipe() for _ in range(waiting)]

    def take(fd):
        os.read(fd, 1)
        found.append(engine.unhurried)

    try:
        for readable, writable in pipes:
            engine.add_reader(readable, partial(take, readable))
            os.write(writable, b"x")
        if due is not None:
            engine.call_at(engine.now() + due, lambda: None)
        engine.start()
        eventually(lambda: len(found) == waiting)
    finally:
        engine.stop()
        for fd in itertools.chain(*pipes):
            os.close(fd)

    assert found == [unhurried] * waiting


def turn(lab, nic, send, *, unhurried, appetite, straight=True):
    """Have frames wait for one turn of a NIC's; returns how many it took."""
    with lab.lock:
        send()
        lab.engine.unhurried, nic._straight = unhurried, straight
        nic._appetite, nic._round = appetite, lab.engine.rounds
        before = nic.taken
        nic._readable()
        return nic.taken - before


@pytest.mark.parametrize(
    ("unhurried", "straight", "most"),
    [(True, True, 253), (False, True, 63), (True, False, 63)],
    ids=["nobody else waits", "somebody waits", "a hook looks"],
)
def test_a_turn_keeps_to_the_budget_of_its_own_round(pair, unhurried, straight, most):
    alice, _, _ = pair
    nic = alice.nics["em0"].if_softc
    with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:

        def send():
            for _ in range(400):
                source.sendto(bytes(20), ("192.0.2.2", 9))

        taken = turn(alice.lab, nic, send, unhurried=unhurried, appetite=400, straight=straight)
    assert taken == most


def test_a_hook_has_short_turns(pair):
    alice, _, cable = pair
    nic = alice.nics["em0"].if_softc
    assert alice.ping("192.0.2.2", count=3, interval=0).received == 3
    assert nic._straight
    cable.add_hook(lambda frame: None)
    assert alice.ping("192.0.2.2").received == 1
    assert not nic._straight


@pytest.mark.parametrize(
    ("unhurried", "waiting", "taken", "appetite"),
    [(True, 100, 64 + 1, 2), (False, 100, 8 + 1, 2), (True, 1, 1, 1), (True, 5, 5, 2)],
    ids=["at leisure", "somebody waits", "one", "a few"],
)
def test_super_frames_go_in_trains(pair, monkeypatch, unhurried, waiting, taken, appetite):
    if not kernel_has("offload USO"):
        pytest.skip("this kernel cuts super-frames of UDP itself")
    alice, bob, cable = pair
    sender, receiver = alice.nics["em0"], bob.nics["em0"]
    nic = sender.if_softc
    trains = []
    carry = express._Lane.carry

    def counted(lane, nic, m, more=0):
        trains.append(more)
        carry(lane, nic, m, more)

    with alice.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        source.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1400)

        def send(count=waiting):
            for _ in range(count):
                source.sendto(bytes(40 * 1400), ("192.0.2.2", 9))

        turn(alice.lab, nic, lambda: send(2), unhurried=True, appetite=2)  # the way is found
        eventually(lambda: sender.if_opackets == kernel(alice).packets_sent)
        with alice.lab.lock:
            lane = nic._lane
            assert lane is not None
            lane.turns, nic._stale_until = alice.lab.lock.turns, 0.0
            monkeypatch.setattr(express._Lane, "carry", counted)
            before = sender.if_opackets, receiver.if_ipackets, receiver.if_ibytes
            send()
            alice.lab.engine.unhurried = unhurried
            nic._appetite, nic._round = 2, alice.lab.engine.rounds
            nic._readable()
            monkeypatch.undo()
            assert trains == [taken - 1 if waiting > taken else 64]
            assert nic._appetite == appetite
            assert nic.taken == sender.if_opackets
            found = sender.if_opackets, receiver.if_ipackets, receiver.if_ibytes
            assert [now - then for now, then in zip(found, before, strict=True)] == [
                taken,
                taken,
                taken * (40 * 1400 + 42),
            ]
            nic._stale_until = 1e12  # now something may be among them that must be finished first
            lane.turns = alice.lab.lock.turns
            nic._lane, nic._round = lane, alice.lab.engine.rounds
            monkeypatch.setattr(express._Lane, "carry", counted)
            send(2)
            nic._readable()
            nic._stale_until = 0.0
            assert len(trains) == 1
    assert cable.account().balances()


def test_super_frames_are_carried_one_after_the_other(pair):
    alice, bob, cable = pair
    size = 200 << 20
    sent, received = alice.nics["em0"], bob.nics["em0"]
    begun = [(kernel(alice), kernel(bob)), (sent.if_opackets, received.if_ipackets)]
    delivered = cable.account().delivered

    with (
        bob.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        alice.socket(socket.AF_INET, socket.SOCK_STREAM) as source,
    ):
        listener.bind(("192.0.2.2", 0))
        listener.listen(1)
        source.connect(listener.getsockname())
        sink, _ = listener.accept()

        def send():
            for number in range(size >> 20):
                source.sendall(bytes([number & 255]) * (1 << 20))
            source.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        got = 0
        buffer = bytearray(1 << 20)
        with sink:
            while (count := sink.recv_into(buffer, (1 << 20) - got % (1 << 20))) > 0:
                assert buffer[0] == buffer[count - 1] == got >> 20 & 255
                got += count
        thread.join()

    assert got == size
    (alice_before, bob_before), (opackets, ipackets) = begun
    eventually(lambda: sent.if_opackets - opackets == kernel(alice).packets_sent - alice_before.packets_sent)
    eventually(lambda: received.if_ipackets - ipackets == kernel(bob).packets_recv - bob_before.packets_recv)
    frames = sent.if_opackets - opackets
    assert size / frames > 16384, "no super-frames"
    assert cable.account().balances()
    assert cable.account().delivered - delivered >= frames
