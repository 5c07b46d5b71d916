"""The queue of threads for the GIL: who has the turn, and what happens if its holder does not come back, or hangs."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe

import pytest
import shims
from service_sites import new_key, seal, unseal
from test_service_tokens import NewPlayed, order
from test_service_tokens import new_played as new_played  # noqa: PLC0414 - the fixture
from waiting import until

from hsmkms.service.runtime import bells, gil_queue
from hsmkms.service.runtime.bells import Bell, own_bell
from hsmkms.service.runtime.gil_queue import FIRST_PAUSE_SECONDS, QUICK_RETURNS, GilQueue, Sleeper, State

SECONDS = 60.0
"""After which a test gives up."""


@pytest.fixture(autouse=True)
def _silent_bell() -> None:
    """Take rings of earlier tests of this process, which interrupted this thread, out of its bell."""
    while own_bell().wait(0):
        pass


def begin(act: Callable[[], object]) -> threading.Thread:
    """Run it in a thread."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


@contextmanager
def holder(turns: GilQueue) -> Iterator[None]:
    """A thread that has the turn, and does not leave until the block ends."""
    has_turn, may_leave = threading.Event(), threading.Event()

    def hold() -> None:
        turns.enter()
        has_turn.set()
        assert may_leave.wait(SECONDS)
        turns.leave()

    thread = begin(hold)
    assert has_turn.wait(SECONDS)
    try:
        yield
    finally:
        may_leave.set()
        thread.join(SECONDS)


def pass_through(turns: GilQueue, names: list[str], name: str) -> threading.Thread:
    """Start a thread that waits for the turn, notes that it has it, and leaves."""
    before = len(turns._queue)

    def act() -> None:
        turns.enter()
        names.append(name if turns.is_held_here else f"{name} without the turn")
        turns.leave()

    thread = begin(act)
    until(lambda: len(turns._queue) == before + 1 or not thread.is_alive())
    return thread


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice is so long that nobody looks whether the holder hangs."""
    monkeypatch.setattr(gil_queue, "SLICE_MILLISECONDS", int(SECONDS * 1000))


def test_one_thread() -> None:
    """A thread that is alone has the turn between enter and leave; a second enter changes nothing."""
    turns = GilQueue()
    for _ in range(2):
        turns.enter()
        turns.enter()
        assert turns.is_held_here
        turns.leave()
        assert not turns.is_held_here
        turns.leave()


@pytest.mark.usefixtures("patient")
def test_threads_get_the_turn_in_the_order_of_their_arrival() -> None:
    """The turn is passed on when a thread leaves, to the one that has waited longest."""
    turns, names = GilQueue(), list[str]()
    turns.enter()
    threads = [pass_through(turns, names, name) for name in "abc"]
    assert names == []
    turns.leave()
    for thread in threads:
        thread.join(SECONDS)
    assert names == ["a", "b", "c"]


@pytest.mark.usefixtures("patient")
def test_a_thread_that_gives_the_turn_up_gets_it_again_when_it_is_woken() -> None:
    """A thread that sleeps for its record passes the turn on; when it is woken it has the turn again."""
    turns, names = GilQueue(), list[str]()
    turns.enter()
    other = pass_through(turns, names, "other")
    sleeper = Sleeper()
    turns.give_up()
    other.join(SECONDS)
    waker = begin(lambda: turns.wake([sleeper]))
    assert turns.sleep(sleeper, 1)
    waker.join(SECONDS)
    assert (names, turns.is_held_here) == (["other"], True)
    turns.leave()


def test_a_thread_that_did_not_want_the_turn_is_woken_beside_its_holder() -> None:
    """Nobody waits for the turn who did not have it: it might hold a lock for which the holder waits."""
    turns = GilQueue()
    sleeper = Sleeper(wants_turn=False)
    with holder(turns):
        turns.wake([sleeper])
        assert turns.sleep(sleeper, 1)
        assert not turns.is_held_here


def test_a_holder_that_hangs_does_not_stop_others() -> None:
    """If no turn ends, threads go ahead without; after a pause they have turns again, which the holder has lost."""
    turns, names = GilQueue(), list[str]()
    with holder(turns):
        for thread in [pass_through(turns, names, name) for name in "ab"]:
            thread.join(SECONDS)
        assert sorted(names) == ["a without the turn", "b without the turn"]  # they may go ahead together
        assert turns.is_off
        turns._on_again_at = 0.0
        pass_through(turns, names, "c").join(SECONDS)
        assert names[2:] == ["c"]
        turns.enter()
    assert turns.is_held_here  # the holder that hung has left now
    turns.leave()


def test_the_pause_grows_while_holders_are_slow() -> None:
    """Each trial that finds the token slow makes the next one later."""
    turns, pauses = GilQueue(), list[float]()
    for _ in range(2):
        turns._on_again_at = 0.0
        with holder(turns):
            pass_through(turns, [], "a").join(SECONDS)
        pauses.append(turns._pause_seconds)
    assert FIRST_PAUSE_SECONDS < pauses[0] < pauses[1]


@pytest.fixture
def keeping() -> GilQueue:
    """A queue whose threads keep the turn between their requests, since they have come back at once so often."""
    turns = GilQueue()
    turns._quick_returns = QUICK_RETURNS - 1
    turns._left_at[threading.get_ident()] = float("inf")
    turns._note_return(threading.get_ident())
    assert not turns._passes_each_on
    turns._passes_on = False
    return turns


def test_a_turn_that_was_kept_in_vain_is_taken(keeping: GilQueue) -> None:
    """Who finds the turn free after a slice takes it, and turns are passed on again after each request."""
    sleeper = Sleeper()
    keeping._queue.append(sleeper)
    assert keeping.sleep(sleeper, 1)
    assert keeping.is_held_here
    assert keeping._passes_each_on
    keeping.leave()


def test_a_turn_is_kept_for_a_slice_only(keeping: GilQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a slice the first in the queue wants the turn, and gets it when the holder leaves."""
    monkeypatch.setattr(gil_queue, "ENDS_PER_SLICE", 0)  # the holder is not slow
    names = list[str]()
    keeping.enter()
    other = pass_through(keeping, names, "other")
    until(lambda: keeping._passes_on)
    keeping.leave()
    other.join(SECONDS)
    assert names == ["other"]
    assert not keeping._passes_each_on


def test_a_thread_that_comes_back_late_ends_the_series() -> None:
    """Quick returns count in succession only."""
    turns = GilQueue()
    turns._quick_returns = QUICK_RETURNS - 1
    turns._left_at[threading.get_ident()] = 0.0
    turns._note_return(threading.get_ident())
    assert (turns._quick_returns, turns._passes_each_on) == (0, True)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("granted", [False, True])
def test_an_interrupted_thread_keeps_no_turn(monkeypatch: pytest.MonkeyPatch, *, granted: bool) -> None:
    """A user's interrupt while a thread waits ends its wait; a turn that it was just given is passed on."""
    turns, names = GilQueue(), list[str]()

    def interrupted(_bell: Bell, _milliseconds: int) -> bool:
        monkeypatch.undo()
        monkeypatch.setattr(gil_queue, "SLICE_MILLISECONDS", int(SECONDS * 1000))
        if granted:
            turns.wake([])
        raise KeyboardInterrupt

    sleeper = Sleeper()
    turns._queue.append(sleeper)
    monkeypatch.setattr(bells.Bell, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.sleep(sleeper, 1)
    turns.wake([])
    pass_through(turns, names, "next").join(SECONDS)
    assert names == ["next"]
    assert not own_bell().wait(0)


@pytest.mark.parametrize("method", ["_note_return", "_sleep"])
def test_threads_behind_an_interrupted_one_go_on(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A thread that is interrupted while it queues up stays at the head of the queue for nobody."""
    turns, names = GilQueue(), list[str]()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with holder(turns):
        with monkeypatch.context() as patch:
            patch.setattr(turns, method, interrupted)
            with pytest.raises(KeyboardInterrupt):
                turns.enter()
        pass_through(turns, names, "next").join(SECONDS)
    assert names == ["next without the turn"]
    assert not turns.is_held_here


def test_a_sleeper_that_nobody_waits_for_stops_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sleeps behind a thread that has gone, at whatever line it was interrupted, looks for itself in time."""
    monkeypatch.setattr(gil_queue, "MOST_SLICES", 1)
    turns, names = GilQueue(), list[str]()
    with holder(turns):
        turns._queue.append(Sleeper())
        pass_through(turns, names, "next").join(SECONDS)
    assert names == ["next without the turn"]
    assert own_bell().wait(0)


def test_the_ring_of_an_interrupted_sleep_ends_no_other() -> None:
    """A ring counts only for a sleeper that was woken."""
    turns = GilQueue()
    own_bell().ring()
    assert not turns.sleep(Sleeper(), 1)
    assert not own_bell().wait(0)


def test_a_woken_sleeper_without_a_ring_goes_on() -> None:
    """If whoever woke a thread was interrupted before the ring, the thread finds out for itself."""
    turns = GilQueue()
    sleeper = Sleeper()
    sleeper.state = State.WITHOUT_TURN
    assert turns.sleep(sleeper, 1)


def test_a_forked_child_has_no_queue() -> None:
    """A child does not wait for a thread of the parent that had the turn, or was changing the queue, at the fork."""
    turns = GilQueue()
    receiver, sender = Pipe(duplex=False)
    with holder(turns), turns._changing:
        child = os.fork()
        if child == 0:
            try:
                turns.enter()
                turns.leave()
                sender.send(turns.is_disabled)
            finally:
                os._exit(0)
    try:
        assert receiver.poll(SECONDS)
        assert receiver.recv()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not turns.is_disabled


def test_without_a_file_descriptor_a_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no pipe can be made, a thread does not wait for the turn."""

    def full() -> Bell:
        raise OSError(24, "Too many open files")

    turns, names = GilQueue(), list[str]()
    monkeypatch.setattr(gil_queue, "own_bell", full)
    with holder(turns):
        pass_through(turns, names, "other").join(SECONDS)
    assert names == ["other without the turn"]


def test_disabled() -> None:
    """A queue that is disabled lets everybody through, also those who wait already."""
    turns, names = GilQueue(), list[str]()
    turns.enter()
    waiting = pass_through(turns, names, "a")
    turns.disable()
    waiting.join(SECONDS)
    pass_through(turns, names, "b").join(SECONDS)
    assert names == ["a without the turn", "b without the turn"]


def test_a_ring_before_the_sleep_is_not_lost() -> None:
    """Each ring ends one sleep."""
    bell = Bell()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0)


def test_a_forked_child_has_a_bell_of_its_own() -> None:
    """A ring in the child does not wake the parent's thread."""
    bell = own_bell()
    receiver, sender = Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            own = own_bell()
            own.ring()
            sender.send(own is not bell)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert receiver.recv()
    assert not bell.wait(0)
    assert own_bell() is bell


def test_a_token_call_that_hangs_does_not_stop_other_threads(new_played: NewPlayed) -> None:
    """While one thread waits in C_Encrypt, others encrypt, decrypt and get their records on disk; later it ends too."""
    site = new_played()
    with site.open() as kms:
        key_id = new_key(kms).key_id
        before = seal(kms, key_id, b"before")
        order(site, "fault C_Encrypt 1 wait")
        hung: list[bytes] = []
        threads = [begin(lambda: hung.append(seal(kms, key_id, b"hung")))]
        until(lambda: shims.waiting(site.folder / "shim.control") == 1)
        done: list[bytes | None] = []
        threads += [begin(lambda: done.append(unseal(kms, seal(kms, key_id, b"other")))) for _ in range(3)]
        for thread in threads[1:]:
            thread.join(SECONDS)
        assert (done, hung) == ([b"other"] * 3, [])
        assert unseal(kms, before) == b"before"
        order(site)
        threads[0].join(SECONDS)
        assert unseal(kms, hung[0]) == b"hung"
        assert unseal(kms, seal(kms, key_id, b"after")) == b"after"
