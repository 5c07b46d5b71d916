"""A bounded pool of sessions.

A thread borrows a session for one device call alone, so request threads may outnumber sessions. The last session
given back is the next one lent (tokens count open sessions). Who finds none waits, for a limited time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from msgspec import Struct
from pkcs11.exceptions import PKCS11Error, SessionCount
from pkcs11.types import Session

from hsmkms.errors import ClosedError, ThrottlingException
from hsmkms.hsm.faults import translate
from hsmkms.process import ForkGuard


class PoolUse(Struct, frozen=True, kw_only=True):
    """Sessions of a pool at an instant: how many there may be, are open, are lent, are waited for by threads.

    ``waits``: how often a thread has had to wait so far.
    """

    limit: int
    opened: int
    lent: int
    waiting: int
    waits: int


class SessionPool:
    """At most ``size`` sessions, opened by ``open_session`` when first needed.

    ``take`` and ``put`` are on the path of every request: lending and returning an idle session costs one operation
    on a deque each, which the interpreter makes atomic. The condition is only for those who must wait.
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
        self._closed = False
        self._guard = ForkGuard()

    def take(self) -> Session:
        """Borrow a session; give it back with ``put``, or ``discard`` it when it is dead.

        Raises ThrottlingException after ``wait_seconds`` without a free one.
        """
        self._guard.check()
        if self._closed:
            raise ClosedError("this Kms has been closed: open a new one")
        try:
            return self._idle.pop()
        except IndexError:
            return self._open_or_wait()

    def put(self, session: Session) -> None:
        """Give a borrowed session back."""
        if self._closed:
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

    def use(self) -> PoolUse:
        """How the sessions are used now."""
        opened = self._opened
        lent = max(opened - len(self._idle), 0)
        return PoolUse(limit=self._size, opened=opened, lent=lent, waiting=self._waiting, waits=self._waits)

    def discard(self, session: Session) -> None:
        """Drop a dead session, and all idle ones: they died with it."""
        self._drop([session])

    def discard_idle(self) -> None:
        """Drop all idle sessions: the login that they shared is gone."""
        self._drop([])

    def _drop(self, dead: list[Session]) -> None:
        with self._changed:
            with suppress(IndexError):
                while True:
                    dead.append(self._idle.pop())
            self._opened -= len(dead)
            self._changed.notify_all()
        for each in dead:
            _close_quietly(each)

    def close(self) -> None:
        """Close all idle sessions; borrowed ones end with their process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with suppress(IndexError):
            while True:
                _close_quietly(self._idle.pop())

    def _open_or_wait(self) -> Session:
        deadline = time.monotonic() + self._wait_seconds
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    if self._closed:
                        raise ClosedError("this Kms has been closed")
                    with suppress(IndexError):
                        return self._idle.pop()
                    if self._opened < self._size:
                        session = self._open()
                        if session is not None:
                            return session
                    remaining = deadline - time.monotonic()
                    if remaining <= 0:
                        raise ThrottlingException(
                            f"all {self._opened} sessions with the token are busy: "
                            "try again, or raise token.max_sessions"
                        )
                    self._waits += 1
                    self._changed.wait(remaining)
            finally:
                self._waiting -= 1

    def _open(self) -> Session | None:
        try:
            session = self._open_session()
        except SessionCount as exc:
            if not self._opened:
                raise translate(exc) from exc
            return None  # the token has no more just now: wait for one of those that we have
        except PKCS11Error as exc:
            raise translate(exc) from exc
        self._opened += 1
        return session


def _close_quietly(session: Session) -> None:
    """Close a session that may be dead already; there is nothing to do about a refusal."""
    with suppress(PKCS11Error):
        session.close()
