"""Let threads through the quick part of a request one after another, so that they do not fight for the GIL.

Every call to the token releases Python's global interpreter lock. On a token that answers in microseconds each call
then wakes another thread, and both wait for each other: eight threads did half of what one does (the convoy effect).
So one thread at a time has the *turn*, and the others sleep without wanting the GIL. Where threads come back at once,
they keep the turn for a slice of time, over many requests, since a change of threads takes a part of a quick request;
where they do something else between requests, the turn is passed on after each. What threads do is learnt: a turn
that was kept and is free at the end of a slice was kept in vain.

A thread that hangs does not stop the others. The first in the queue looks at the holder once in a slice: if few turns
have ended in two slices, the token is slow, or hangs, and all threads go ahead side by side, without turns, until the
next trial. Trials become rare while the token stays slow: one in five seconds, which takes 4 ms.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from math import inf
from threading import get_ident
from typing import Final
from weakref import WeakSet

from hsmkms.service.runtime.bells import own_bell

SLICE_MILLISECONDS: Final = 2
"""How long a thread keeps the turn while others wait. Python's own slice is 5 ms (sys.getswitchinterval)."""

ENDS_PER_SLICE: Final = 12
"""If fewer turns end in a slice, the token counts as slow: threads had better wait for it at the same time."""

MOST_SLICES: Final = 16
"""Limit of the time that a thread sleeps before it looks again, in slices."""

FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 5.0
"""How long threads go ahead without turns on a slow token; doubled by each trial that finds it slow."""

QUICK_RETURNS: Final = 50
"""How often in succession threads must come back at once until they keep the turn between their requests."""

AT_ONCE_SECONDS: Final = 0.0002
"""A thread that has passed its turn on comes back at once if it queues up again within this time."""

MOST_THREADS: Final = 1000
"""Limit of threads whose last turn is remembered; threads that have ended are among them."""

_SLICE_SECONDS: Final = SLICE_MILLISECONDS / 1000


class State(IntEnum):
    """What became of a sleeper."""

    ASLEEP = 0
    HAS_TURN = 1
    WITHOUT_TURN = 2
    GONE = 3


class Sleeper:
    """A thread that waits for the turn, or for its record to be on disk (audit_lane.py) and then for the turn.

    ``number``: of that record. ``wants_turn``: it gets the turn when it is woken. OSError without a file descriptor.
    """

    __slots__ = ("bell", "number", "state", "wants_turn")

    def __init__(self, number: int = 0, *, wants_turn: bool = True) -> None:
        self.bell = own_bell()
        self.number = number
        self.wants_turn = wants_turn
        self.state = State.ASLEEP


class GilQueue:
    """The turn, and the threads that wait for it. Thread-safe; without effect where Python has no GIL."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        """Of the holder, the queue and the states of its sleepers; never held while a thread waits."""
        self._holder = 0
        """The thread that has the turn, or 0."""
        self._queue: deque[Sleeper] = deque()
        self._ended = 0
        self._passes_on = True
        """Whether this turn is passed on when its holder leaves; else it is only free then."""
        self._passes_each_on = True
        self._left_at: dict[int, float] = {}
        """When threads have passed the turn on that have not queued up since."""
        self._quick_returns = 0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._on_again_at = 0.0
        self._is_off = False
        self.is_disabled = False
        """True if threads go ahead without turns for good."""
        _queues.add(self)
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            self.disable()

    @property
    def is_off(self) -> bool:
        """True while threads go ahead without turns."""
        return self._is_off

    @property
    def is_wanted(self) -> bool:
        """True if threads wait for the turn."""
        return bool(self._queue)

    @property
    def is_held_here(self) -> bool:
        """True if this thread has the turn."""
        return self._holder == get_ident()

    def disable(self) -> None:
        """Let all threads go ahead without turns from now on."""
        self.is_disabled, self._on_again_at = True, inf
        with self._changing:
            self._switch_off()

    # -- a request ----------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Wait for the turn, unless the thread has it already or threads go ahead without."""
        if self._is_off:
            if time.monotonic() < self._on_again_at:
                return
            self._is_off = False
        with self._changing:
            if not self._holder:
                self._holder = get_ident()
        if self._holder != get_ident():
            self._queue_up()

    def leave(self) -> None:
        """End the thread's turn, if it has it."""
        if self._holder == get_ident():
            with self._changing:
                if self._queue and self._passes_on:
                    self._left_at[get_ident()] = time.monotonic()
                    self._end()
                else:
                    self._end(frees=True)

    # -- sleeping -----------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """End the thread's turn, if it has it, before it sleeps for something else."""
        if self._holder == get_ident():
            with self._changing:
                self._end()

    def sleep(self, sleeper: Sleeper, slices: int) -> bool:
        """Sleep until the thread was given the turn, or is to go on without.

        Before it is in the queue, it sleeps so many slices at most: False then.
        """
        try:
            return self._sleep(sleeper, slices)
        except BaseException:  # the interruption of a user
            self._abandon(sleeper)
            raise

    def wake(self, sleepers: Iterable[Sleeper]) -> None:
        """Wake threads: those that want the turn one after another, each with it."""
        with self._changing:
            for each in sleepers:
                if each.wants_turn:
                    self._queue.append(each)
                else:
                    _go_on(each, State.WITHOUT_TURN)
            self._passes_on = True
            if self._is_off:
                self._wake_all()
            elif self._queue and not self._holder:
                self._grant()

    def wake_without_turn(self, sleeper: Sleeper) -> None:
        """Wake a thread that is not in the queue at once."""
        with self._changing:
            _go_on(sleeper, State.WITHOUT_TURN)

    def withdraw(self, sleeper: Sleeper) -> bool:
        """Take a thread back that does not sleep any more; False if it has been woken."""
        with self._changing:
            if sleeper.state is not State.ASLEEP:
                return False
            sleeper.state = State.GONE
            if sleeper in self._queue:
                self._queue.remove(sleeper)
            return True

    # -- within -------------------------------------------------------------------------------------------------

    def _queue_up(self) -> None:
        try:
            sleeper = Sleeper()
        except OSError:
            return  # without a file descriptor it fights for the GIL
        try:
            with self._changing:
                self._note_return(sleeper.bell.thread)
                self._queue.append(sleeper)
                place = len(self._queue)
                if self._is_off:
                    self._wake_all()
            self._sleep(sleeper, place)
        except BaseException:  # the interruption of a user
            self._abandon(sleeper)
            raise

    def _abandon(self, sleeper: Sleeper) -> None:
        """Give nothing to a thread that has gone; a turn that it was just given is passed on."""
        if not self.withdraw(sleeper):
            sleeper.bell.wait(0)
        self.give_up()

    def _sleep(self, sleeper: Sleeper, slices: int) -> bool:
        seen_slow, slept = False, 0
        while True:
            ended, began = self._ended, time.monotonic()
            slices = min(slices, MOST_SLICES)
            slept += slices
            if sleeper.bell.wait(SLICE_MILLISECONDS * slices) and sleeper.state is not State.ASLEEP:
                return True  # else the ring was for a sleep that was interrupted
            with self._changing:
                if sleeper.state is not State.ASLEEP:
                    sleeper.bell.wait(0)  # without a ring if whoever woke it was interrupted
                    return True
                if sleeper not in self._queue:
                    return False
                slices = self._queue.index(sleeper) + 1
                if slices > 1 and slept < MOST_SLICES:
                    continue  # the first one looks, unless it was interrupted
                slept = 0
                if not self._holder:  # whoever left the turn does not come back at once
                    self._passes_each_on, self._quick_returns = True, 0
                    self._grant()
                elif self._ended - ended >= (time.monotonic() - began) / _SLICE_SECONDS * ENDS_PER_SLICE:
                    seen_slow, self._passes_on, self._pause_seconds = False, True, FIRST_PAUSE_SECONDS
                elif seen_slow:
                    self._on_again_at = time.monotonic() + self._pause_seconds
                    self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
                    self._switch_off()
                else:
                    seen_slow = True

    def _end(self, *, frees: bool = False) -> None:
        """End this thread's turn, unless it was taken from it: give it to the first in the queue, or free it."""
        if self._holder == get_ident():
            self._ended += 1
            if frees:
                self._holder = 0
            else:
                self._grant()

    def _grant(self) -> None:
        while self._queue:
            sleeper = self._queue.popleft()
            if sleeper.state is State.ASLEEP:
                self._passes_on = self._passes_each_on
                self._holder = sleeper.bell.thread
                _go_on(sleeper, State.HAS_TURN)
                return
        self._holder = 0

    def _switch_off(self) -> None:
        """Let all go ahead; a holder that hangs, or was interrupted and never leaves, loses the turn."""
        self._is_off, self._holder = True, 0
        self._wake_all()

    def _wake_all(self) -> None:
        while self._queue:
            _go_on(self._queue.popleft(), State.WITHOUT_TURN)

    def _note_return(self, thread: int) -> None:
        """Learn whether threads that have passed the turn on come back at once."""
        left_at = self._left_at.pop(thread, None)
        if left_at is not None:
            self._quick_returns = self._quick_returns + 1 if time.monotonic() - left_at <= AT_ONCE_SECONDS else 0
            if self._quick_returns >= QUICK_RETURNS:
                self._passes_each_on = False
        if len(self._left_at) > MOST_THREADS:
            self._left_at.clear()


_queues: Final = WeakSet[GilQueue]()


def _disable_all() -> None:
    """In a forked child: another thread of the parent may have had the turn, or have been changing the queue."""
    for queue in list(_queues):
        queue._changing = threading.Lock()  # noqa: SLF001 - of this module
        queue._queue.clear()  # noqa: SLF001 - see above
        queue.disable()


os.register_at_fork(after_in_child=_disable_all)


def _go_on(sleeper: Sleeper, state: State) -> None:
    if sleeper.state is State.ASLEEP:
        sleeper.state = state
        sleeper.bell.ring()
