"""What a user's code does wrong harms only itself, and the user sees who it was."""

import re
import threading
import time

import pytest

from iflab import TapNic
from iflab.engine import Engine
from iflab.faults import Loss
from iflab.net import BpfSide, BpfTap, Kernel, bpf_ifdetach, bpfattach
from iflab.net.taskqueue import Task
from iflab.watchdog import Watchdog

from ..linux_tools import PATIENCE, eventually, open_files
from ..pure.doubles import RecordingDriver, ethernet, frame
from ..wire.ports import cabled, framed


class Ended(BaseException):
    """What no ``except Exception`` catches, as ``SystemExit`` and the failures of test frameworks."""


# blocked for seconds


@pytest.fixture
def engine():
    kernel = Kernel()
    made = Engine(kernel.giant, kernel.taskqueue_swi, "test")
    made.watchdog.patience = made.watchdog.period = 0.05
    made.start()
    yield made
    made.stop()


def slow_hook(seconds):
    time.sleep(seconds)


def test_a_call_that_blocks_the_engine_is_named_with_its_traceback(engine, caplog):
    done = threading.Event()
    engine.call_soon(lambda: (slow_hook(0.4 * PATIENCE), done.set()))
    assert done.wait(10 * PATIENCE)
    eventually(lambda: "over after" in caplog.text)

    (blockage,) = engine.watchdog.blockages
    assert blockage.culprit.startswith(
        "test_a_call_that_blocks_the_engine_is_named_with_its_traceback.<locals>"
    )
    assert re.search(r"test_culprits\.py line \d+", blockage.culprit)
    assert blockage.thread == "test-engine"
    assert "in slow_hook\n    time.sleep(seconds)" in blockage.stack
    assert 0.1 <= blockage.seconds < 5 * PATIENCE
    assert engine.watchdog.count == 1
    assert "slow_hook" in caplog.text
    assert "stops everything" in caplog.text


def test_who_blocks_again_and_again_shows_his_traceback_once(engine, caplog):
    for number in (1, 2):
        engine.call_soon(lambda: slow_hook(0.4 * PATIENCE))
        eventually(lambda number=number: caplog.text.count("over after") == number)

    assert engine.watchdog.count == 2
    assert caplog.text.count("in slow_hook\n    time.sleep(seconds)") == 1
    assert caplog.text.count("stops everything, again") == 1


def test_a_thread_that_keeps_the_lock_is_named_and_not_the_engine_that_waits_for_it(engine):
    def greedy():
        with engine.lock:
            engine.wake()
            time.sleep(0.4 * PATIENCE)

    thread = threading.Thread(target=greedy, name="somebody")
    thread.start()
    thread.join()

    eventually(lambda: engine.watchdog.blockages)
    blockage = engine.watchdog.blockages[0]
    assert blockage.thread == "somebody"
    assert "greedy" in blockage.culprit


def test_a_busy_engine_and_short_waits_are_no_blockage(engine):
    engine.watchdog.patience = 0.5 * PATIENCE  # the machine makes waits of its own
    began = time.monotonic()
    again = []

    def work():
        again.append(time.sleep(0.005))
        if time.monotonic() < began + 1.5 * PATIENCE:
            engine.call_soon(work)

    engine.call_soon(work)
    eventually(lambda: time.monotonic() > began + 1.6 * PATIENCE)

    assert len(again) > 3
    assert engine.watchdog.blockages == []


def test_a_watchdog_stops_at_once_also_while_it_waits(engine):
    lock = threading.RLock()

    class Deaf:
        def __init__(self):
            self.lock = lock

        def call_soon(self, fn):
            pass

    dog = Watchdog(Deaf(), Engine._run.__code__, patience=60, period=0.01)
    with lock:
        dog.start()
        time.sleep(0.05)
        began = time.monotonic()
        dog.stop()
    assert time.monotonic() - began < 1 * PATIENCE
    assert not dog._thread.is_alive()


def test_a_hook_of_a_real_cable_that_blocks_is_named(lab, caplog):
    lab.engine.watchdog.patience = 0.1
    alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    alice.ping("192.0.2.2")

    def dreamer(frame):
        if "ICMP" in frame.pkt and not dreamt:
            dreamt.append(time.sleep(1.2))

    dreamt = []
    cable.add_hook(dreamer)
    alice.ping("192.0.2.2", timeout=3 * PATIENCE)

    eventually(lambda: any("dreamer" in each.culprit for each in lab.engine.watchdog.blockages))
    assert alice.ping("192.0.2.2").received == 1


class Sleeper(TapNic):
    """A driver that waits, once, when it sends."""

    slept = False

    def if_start(self, ifp):
        if not self.slept and ifp.if_snd.ifq_len:
            self.slept = True
            time.sleep(1.2)
        super().if_start(ifp)


def test_a_driver_and_a_listener_that_block_are_named(lab):
    lab.engine.watchdog.patience = 0.1
    host = lab.host("alice")
    em0 = host.nic("em0", "192.0.2.1/24", driver=Sleeper)
    lab.cable(em0, lab.station())
    host.ping("192.0.2.2", timeout=0.1)
    eventually(lambda: any("Sleeper.if_start" in each.culprit for each in lab.engine.watchdog.blockages))

    def listener(group):
        time.sleep(1.2)

    lab.kernel.events.register("group_attach_event", listener)
    em0.if_addgroup("lab")
    eventually(lambda: any("listener" in each.culprit for each in lab.engine.watchdog.blockages))


# raising


def test_nothing_that_a_callback_raises_ends_the_engine(engine, caplog):
    heard = []

    def die():
        raise Ended("done for")

    engine.call_soon(die)
    engine.call_at(engine.now(), die)
    engine.call_soon(lambda: heard.append(1))

    eventually(lambda: heard and sum("failed on the engine" in r.message for r in caplog.records) == 2)
    assert engine._thread.is_alive()


def test_a_task_that_raises_leaves_those_behind_it(engine):
    done = threading.Event()

    def fails(pending):
        raise Ended

    with engine.lock:
        engine.tasks.enqueue(Task(fails))
        engine.tasks.enqueue(Task(lambda pending: done.set()))

    assert done.wait(5 * PATIENCE)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, Ended])
def test_taps_receivers_and_hooks_that_raise_leave_the_account_in_order(kind, caplog):
    cable, a, b = cabled()
    others = []

    def fails(*args):
        raise kind("broken")

    cable.add_tap(fails, fails)
    cable.add_tap(lambda end, m: others.append(m))
    a.send("one")
    assert b.texts == ["one"]
    b.then = fails
    a.send("two")
    cable.add_hook(fails)
    a.send("three")

    account = cable.account()
    assert len(others) == 3
    assert dict(account.dropped) == {"receiver error": 1, "hook error": 1}
    assert (account.sent, account.delivered, account.balances()) == (3, 1, True)
    assert "broken" in caplog.text


@pytest.mark.parametrize("kind", [ValueError, SystemExit, Ended])
def test_listeners_of_events_messages_and_interfaces_that_raise_are_passed_over(kind, caplog):
    vnet, ifp, _ = ethernet()
    kernel, heard = vnet.kernel, []

    def fails(*args):
        raise kind("broken")

    for event in ("ifnet_departure_event", "group_attach_event"):
        kernel.events.register(event, fails)
        kernel.events.register(event, heard.append)
    kernel.rtsock.listen(fails)
    kernel.devctl.listen(fails)
    bpfattach(ifp, BpfTap(fails, BpfSide.IN, fails))

    ifp.if_addgroup("lab")
    ifp.if_input(frame("x"))
    bpf_ifdetach(ifp)
    ifp.if_detach()

    assert len(heard) == 2
    assert ifp.if_ipackets == 1
    assert "broken" in caplog.text


class Silly(RecordingDriver):
    """Takes frames past the send queue, and answers what it is told."""

    answer: object = 0

    def if_transmit(self, ifp, m):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def if_qflush(self, ifp):
        pass


@pytest.mark.parametrize("answer", [None, "no", ValueError("burnt"), Ended("burnt")])
def test_a_driver_that_answers_nonsense_or_raises_loses_its_frame_and_counts_it(answer, caplog):
    _, ifp, _ = ethernet()
    driver = ifp.if_driver = Silly()
    ifp.bind_driver()
    driver.answer = answer

    with pytest.raises(OSError, match="Input/output error"):
        ifp.if_transmit(frame("x"))
    driver.answer = 0
    ifp.if_transmit(frame("x"))

    assert ifp.if_oerrors == 1
    assert "if_transmit" in caplog.text


def fails(self, *args, **options):
    raise Ended("burnt")


@pytest.mark.parametrize(
    "name",
    [
        "if_start",
        "if_init",
        "if_ioctl",
        "if_detached",
        "prepare",
        "send",
        "receive",
        "accepts",
        "to_host",
        "link_change",
    ],
)
def test_a_nic_that_fails_at_anything_harms_only_itself(lab, name, caplog):
    """The others talk on, the culprit is told, and when it is gone nothing is left of it."""
    bad = type("Bad", (TapNic,), {name: fails})
    bob, carol, alice = (lab.host(each) for each in ("bob", "carol", "alice"))
    nics = [bob.nic("em0", "192.0.2.2/24"), carol.nic("em0", "192.0.2.3/24")]
    alice.run("true")  # its namespaces are open from now on
    fds = open_files(collect=True)
    em0, told = None, ""
    try:
        em0 = alice.nic("em0", "192.0.2.1/24", driver=bad)
    except BaseException as error:
        told = str(error)
    hub = lab.segment(*nics, *([em0] if em0 is not None else []))

    assert bob.ping("192.0.2.3", 2, interval=0.01, timeout=5 * PATIENCE).received == 2
    if em0 is not None:
        alice.ping("192.0.2.2", timeout=0.1)
        em0.if_detach()
        em0.if_free()
    told += caplog.text
    assert bob.ping("192.0.2.3", 2, interval=0.01, timeout=5 * PATIENCE).received == 2

    assert "burnt" in told
    assert alice.nics == {}
    assert "em0" not in alice.run("ip -o link").stdout
    assert hub.account().balances()
    lab.wait_for_closers()
    eventually(lambda: open_files() == fds)
    lab.check()


def test_a_port_that_fails_at_every_question_can_still_be_plugged_and_pulled(caplog):
    cable, a, b = cabled()

    class Fool(type(b)):
        def takes(self, sender):
            raise Ended("takes")

        def link_change(self, up):
            raise Ended("link")

        def accepts_change(self):
            raise Ended("accepts")

    cable.unplug(b)
    fool = Fool("fool")
    cable.plug(fool)
    a.send("hello")
    cable.unplug(fool)

    assert fool.texts == ["hello"]
    assert "takes" in caplog.text
    assert "failed to take the change of its link" in caplog.text
    assert cable.account().balances()


def test_a_fault_that_raises_loses_its_frame_with_a_name(lab, caplog, monkeypatch):
    def fails(random, number, m):
        raise Ended("no idea")

    monkeypatch.setattr(Loss, "decider", lambda self: fails)
    cable = lab.cable(one := lab.station(), other := lab.station())
    cable.impair(Loss(0.5))

    with lab.lock:
        one.end.send(framed("x"))
    cable.impair()
    with lab.lock:
        one.end.send(framed("y"))

    account = cable.account()
    assert dict(account.dropped) == {"fault error": 1}
    assert (account.delivered, account.balances()) == (1, True)
    assert other.received == 1
    assert "no idea" in caplog.text


def test_a_train_tap_and_a_log_that_raise_stop_no_frames(caplog):
    from iflab import Lab, Missing

    def fails(*args):
        raise Ended("noise")

    try:
        lab = Lab(on_log=fails)
    except Missing as error:
        pytest.skip(str(error))
    with lab:
        alice, _, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        cable.add_tap(fails, train=fails)
        assert alice.ping("192.0.2.2", 3, interval=0.01).received == 3
        assert cable.account().balances()
    assert "noise" in caplog.text
