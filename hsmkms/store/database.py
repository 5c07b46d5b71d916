"""Run transactions on a database: what the engines have in common.

``atomic()`` writes and ``reading()`` reads. A write transaction of the control plane has the write lock of its engine
from its beginning, so what it reads cannot change before it writes.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from hsmkms.errors import ClosedError, MisuseError, StoreError
from hsmkms.process import ForkGuard
from hsmkms.store.consistency import Outage

Result = TypeVar("Result")


class Companion(Protocol):
    """Hooks into every write transaction of a database, called on the transaction's thread."""

    def before_commit(self, tx: Connection) -> None:
        """Write further rows into the transaction before it is committed."""

    def after_commit(self) -> None:
        """Handle a commit."""

    def rolled_back(self) -> None:
        """Handle a rollback."""


class ChangeSignal(ABC):
    """Detects commits to the control plane. Not thread-safe but for ``ask`` and ``outage``.

    What has a default here is for engines on which a commit is seen at once, whoever made it.
    """

    strict = False
    """True if ``moved`` asks the database each time, unless a block of ``sharing`` says that this was done."""

    bridged_seconds = 0.0
    """How long what is cached is used while the database does not answer."""

    @abstractmethod
    def moved(self) -> bool:
        """Return True if there was a commit since the last call, or since the signal was created.

        Raises StoreError or DependencyTimeoutException, and ForkedProcessError in a forked child.
        """

    def explains(self, conn: Connection, entries: int) -> bool:  # noqa: ARG002 - of other engines
        """Return False if so many new entries of the change log may not be all changes since the last call.

        ``conn``: the transaction in which they were read. Nothing that was cached before counts then.
        """
        return True

    def ask(self, done: Callable[[bool], None]) -> None:
        """Have ``done`` called, in another thread perhaps, when it is known whether there were commits until now.

        It gets False if the database does not answer.
        """
        done(True)

    def sharing(self, answered: bool) -> AbstractContextManager[None]:  # noqa: ARG002, FBT001 - of other engines
        """Let all calls of ``moved`` in this thread within the block share the answer that ``ask`` got."""
        return nullcontext()

    def asking(self) -> AbstractContextManager[None]:
        """Do the same with an answer that is waited for now."""
        return nullcontext()

    def outage(self) -> Outage | None:
        """Return how long the database has not answered, and what is done meanwhile; None if it answers."""
        return None

    @abstractmethod
    def refuse(self, fault: StoreError) -> None:
        """Raise this error in all later calls of ``moved``."""

    @abstractmethod
    def close(self) -> None:
        """Close the signal's connection, unless it belongs to the parent of a forked child."""


class Database(ABC):
    """A database of an installation. Thread-safe; raises in a forked child. ``name`` is for messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.companions: list[Companion] = []
        """Hooks in the order in which they write; they are called in the same order at the end of a transaction."""
        self._guard = ForkGuard()
        self._writing = threading.Lock()
        self._writer: int | None = None
        self._closed = False

    @contextmanager
    def atomic(self) -> Iterator[Connection]:
        """Run a write transaction: committed at the end of the block, rolled back if it raises.

        Threads of one process queue on a lock, which is fairer and faster than the engine's. MisuseError if the thread
        has a write transaction open already: it would deadlock.
        """
        try:
            with self._one_writer(), self._write() as conn:
                yield conn
                for companion in self.companions:
                    companion.before_commit(conn)
        except BaseException:
            for companion in self.companions:
                companion.rolled_back()
            raise
        for companion in self.companions:
            companion.after_commit()

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` in a write transaction, again if the engine ended it in favour of another one.

        So ``work`` may change nothing outside the database.
        """

        def act() -> Result:
            with self.atomic() as tx:
                return work(tx)

        return self.again_if_aborted(act)

    def again_if_aborted(self, act: Callable[[], Result]) -> Result:
        """Run ``act``, which has one write transaction, again while the engine ends that in favour of another one."""
        return act()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Run a read transaction: a consistent snapshot. Writes in it fail or are lost."""
        with self._read() as conn:
            yield conn

    @property
    def writing_here(self) -> bool:
        """True while this thread has a write transaction open."""
        return self._writer == threading.get_ident()

    @abstractmethod
    def lease_time(self, tx: Connection, now: datetime) -> datetime:
        """Return the time by which leases of all processes are measured; ``now`` is this machine's."""

    def check_in_place(self) -> None:  # noqa: B027 - not every engine can lose its database so
        """Raise StoreError if another database has come into its place since it was opened."""

    def close(self) -> None:
        """Close all connections; in a forked child they are left to the parent."""
        self._closed = True
        self._dispose(close=not self._guard.foreign)

    def check_open(self) -> None:
        """Raise ForkedProcessError in a forked child, ClosedError after ``close``."""
        self._guard.check()
        if self._closed:
            raise ClosedError("this database has been closed: open a new Kms")

    @abstractmethod
    def _write(self) -> AbstractContextManager[Connection]:
        """Begin a write transaction, commit it at the end or roll it back; translate errors of the engine."""

    @abstractmethod
    def _read(self) -> AbstractContextManager[Connection]:
        """Begin a read transaction, and end it; translate errors of the engine."""

    @abstractmethod
    def _dispose(self, *, close: bool) -> None:
        """Forget all connections, and close them if told to."""

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        self._guard.check()  # before the lock: a forked child may have inherited it locked
        if self._writer == threading.get_ident():
            raise MisuseError("a write transaction was begun inside another one")
        with self._writing:
            self._writer = threading.get_ident()
            try:
                yield
            finally:
                self._writer = None
