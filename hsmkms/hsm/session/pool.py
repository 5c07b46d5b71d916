"""Bounded pool of sessions.

A thread borrows a session for one device call only, so request threads may outnumber sessions. The pool is LIFO, so
that few sessions are opened (tokens count open sessions). A thread that gets none waits for a limited time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from msgspec import Struct
from pkcs11.exceptions import PKCS11Error, SessionCount
from pkcs11.types import Session

from hsmkms.errors import (
    ClosedError,
    HiddenObjectsError,
    HsmKmsError,
    ThrottlingException,
    TokenUnavailableError,
    WrongTokenError,
)
from hsmkms.hsm.faults import AWAY, translate
from hsmkms.process import ForkGuard

_LOOK_SECONDS: Final = 0.01


class PoolUse(Struct, frozen=True, kw_only=True):
    """Snapshot of a pool: the limit, open sessions, lent sessions, and threads that wait for one.

    ``waits``: how often a thread has had to wait so far. ``away``: how many pools lend nothing, because their token is
    away; ``wrong``: how many of those because another token is in its place; ``outages``: how many outages have begun.
    """

    limit: int
    opened: int
    lent: int
    waiting: int
    waits: int
    away: int = 0
    outages: int = 0
    wrong: int = 0


def total_use(uses: Iterable[PoolUse]) -> PoolUse:
    """Add up the snapshots of several pools."""
    figures = [[getattr(each, name) for name in PoolUse.__struct_fields__] for each in uses]
    sums = map(sum, zip(*figures, strict=True)) if figures else [0] * len(PoolUse.__struct_fields__)
    return PoolUse(**dict(zip(PoolUse.__struct_fields__, sums, strict=True)))


def is_of_another_token(fault: HsmKmsError | None) -> bool:
    """Return True only if it is certain that another token is in its place, so that the alarm is never false."""
    return isinstance(fault, WrongTokenError) and not isinstance(fault, HiddenObjectsError)


class SessionPool:
    """At most ``size`` sessions, opened by ``open_session`` when first needed.

    ``take`` and ``put`` are on the hot path of every request: lending and returning an idle session costs one deque
    operation each, which the interpreter makes atomic. The condition is used only by threads that must wait.
    """

    def __init__(self, open_session: Callable[[], Session], size: int, wait_seconds: float) -> None:
        self._open_session = open_session
        self._size = size
        self._wait_seconds = wait_seconds
        self._idle: deque[Session] = deque()
        self._changed = threading.Condition()
        self._opened = 0
        self._waiting = 0
        self._waits = 0
        self._refusal: HsmKmsError | None = None
        self._holders = 0
        self._outages = 0
        self._guard = ForkGuard()

    def take(self) -> Session:
        """Borrow a session; return it with ``put``, or ``discard`` it when it is dead.

        Raises ThrottlingException after ``wait_seconds`` without a free session; while the token is away,
        TokenUnavailableError or PinError at once.
        """
        if self._guard.foreign:
            self._guard.refuse()
        if self._refusal is not None:
            self.check()
        if self._holders:
            return self._open_or_wait()
        try:
            return self._idle.pop()
        except IndexError:
            return self._open_or_wait()

    def put(self, session: Session) -> None:
        """Return a borrowed session."""
        if isinstance(self._refusal, ClosedError):
            _close_quietly(session)
            return
        self._idle.append(session)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Borrow a session for a block, off the hot path."""
        session = self.take()
        try:
            yield session
        finally:
            self.put(session)

    def check(self) -> None:
        """Raise the pool's error if it is suspended or closed."""
        refusal = self._refusal
        if refusal is not None:
            raise type(refusal)(str(refusal))  # many threads raise it, so each gets its own copy

    def free(self) -> bool:
        """Return True if a thread that asks now would not wait."""
        if self._refusal is not None:
            return True  # it is refused at once
        return not self._holders and (bool(self._idle) or self._opened < self._size)

    def use(self) -> PoolUse:
        """Return a snapshot of the pool."""
        opened = self._opened
        return PoolUse(
            limit=self._size,
            opened=opened,
            lent=max(opened - len(self._idle), 0),
            waiting=self._waiting,
            waits=self._waits,
            away=int(self._refusal is not None),
            outages=self._outages,
            wrong=int(is_of_another_token(self._refusal)),
        )

    def discard(self, session: Session) -> None:
        """Drop a dead session, and all idle ones: they died with it."""
        self._drop([session, *self._take_idle()])

    def discard_idle(self) -> None:
        """Drop all idle sessions: the login that they shared is gone."""
        self._drop(self._take_idle())

    def discard_one(self, session: Session) -> None:
        """Drop a session in which an operation may still be active."""
        self._drop([session])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lend nothing in the block: threads wait, as for a free session, until the login is restored and proven."""
        with self._changed:
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                self._changed.notify_all()

    # -- while the token is away ------------------------------------------------------------------------------------

    def suspend(self, fault: HsmKmsError, *, unless_suspended: bool = False) -> bool:
        """Lend nothing until ``resume``: callers and waiting threads get this error. True if its class is new.

        ``unless_suspended``: keep the error of an earlier ``suspend``.
        """
        with self._changed:
            before = self._refusal
            if isinstance(before, ClosedError) or (unless_suspended and before is not None):
                return False
            self._outages += before is None
            self._refusal = fault
            self._changed.notify_all()
            return type(before) is not type(fault)

    def resume(self) -> bool:
        """Lend again; True if the pool was suspended."""
        with self._changed:
            suspended = self._refusal is not None and not isinstance(self._refusal, ClosedError)
            if suspended:
                self._refusal = None
            return suspended

    def drain(self, seconds: float) -> bool:
        """Drop returned sessions while nothing is lent; True once no session is open, so that no call is running."""
        deadline = time.monotonic() + seconds
        while True:
            self.discard_idle()
            if not self._opened:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """Close all idle sessions; a borrowed one is closed when it is returned."""
        with self._changed:
            self._refusal = ClosedError("this Kms has been closed: open a new one")
            self._changed.notify_all()
        for session in self._take_idle():
            _close_quietly(session)

    def _take_idle(self) -> list[Session]:
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._idle.pop())
        return taken

    def _drop(self, dead: list[Session]) -> None:
        for each in dead:
            _close_quietly(each)
        with self._changed:  # only after closing them: until then a call may be running
            self._opened -= len(dead)
            self._changed.notify_all()

    def _open_or_wait(self) -> Session:
        deadline = time.monotonic() + self._wait_seconds
        full = False
        while True:
            session = self._wait(deadline, full=full) or self._open()
            if session is not None:
                return session
            full = True

    def _wait(self, deadline: float, *, full: bool) -> Session | None:
        """Wait for an idle session; None if another one may be opened, whose place is then reserved.

        ``full``: the token has just refused another session, so wait for an existing one first.
        """
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    self.check()
                    if not self._holders:
                        with suppress(IndexError):
                            return self._idle.pop()
                        if self._opened < self._size and not full:
                            self._opened += 1
                            return None
                    self._wait_once(deadline)
                    full = False
            finally:
                self._waiting -= 1

    def _wait_once(self, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0 and self._holders:
            raise TokenUnavailableError(AWAY)
        if remaining <= 0:
            raise ThrottlingException(
                f"all {self._opened} sessions with the token are busy: try again, or raise token.max_sessions"
            )
        self._waits += 1
        self._changed.wait(remaining)

    def _open(self) -> Session | None:
        """Open a session in the reserved place; None if the token has no more sessions now.

        Not under the lock, so that a token that does not answer does not keep other threads from returning sessions.
        """
        try:
            return self._open_session()
        except BaseException as exc:
            with self._changed:
                self._opened -= 1
                self._changed.notify_all()
            if isinstance(exc, SessionCount) and self._opened:
                return None
            if isinstance(exc, PKCS11Error):
                raise translate(exc) from exc
            raise


def _close_quietly(session: Session) -> None:
    """Close a session that may be dead already, ignoring errors."""
    with suppress(PKCS11Error):
        session.close()
