"""Detect commits to the control plane: this process's at once, those of others by a thread that listens."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Never

from sqlalchemy import Connection

from hsmkms.errors import DependencyTimeoutException, StoreError
from hsmkms.process import ForkGuard
from hsmkms.store.consistency import BOUND_SECONDS, Consistency, Outage
from hsmkms.store.database import ChangeSignal
from hsmkms.store.postgresql import faults
from hsmkms.store.postgresql.availability import Availability
from hsmkms.store.postgresql.generation import Generation, number_in
from hsmkms.store.postgresql.listener import Done, Listener
from hsmkms.store.postgresql.target import Target

_WAIT_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1

_STALE: Final = (
    "{name} has not answered for {age:.0f} seconds, and nothing that is cached is used for longer than {limit:g} "
    "(store.stale_seconds): try again"
)
_STRICT: Final = (
    "{name} does not answer, and nothing that is cached is used meanwhile (store.consistency is strict): try again"
)


class _Shared(threading.local):
    """The answer to ``ask`` that the present block of a thread shares; None outside of such a block."""

    answered: bool | None = None


class GenerationSignal(ChangeSignal):
    """Compares the generation with the one of the last call, and limits how old the one that it compares is."""

    def __init__(
        self, target: Target, generation: Generation, availability: Availability, consistency: Consistency
    ) -> None:
        self._name = target.name
        self._generation = generation
        self._consistency = consistency
        self._clock = consistency.clock
        self.strict = consistency.strict
        self.bridged_seconds = 0.0 if self.strict else consistency.stale_seconds
        self._guard = ForkGuard()
        self._fault: StoreError | None = None
        self._shared = _Shared()
        with faults.translated(target.name):
            self._listener = Listener(target, generation, availability, self._clock)
        self._seen, self._restarts = generation.changes, generation.restarts
        self._explained = generation.number or 0
        """The generation up to which the change log has explained all changes."""

    def moved(self) -> bool:
        """Return True if there was a commit since the last call, or since the signal was created.

        Raises DependencyTimeoutException if what is cached may be older than it may be.
        """
        if self._guard.foreign:
            self._guard.refuse()
        if self._fault is not None:
            raise StoreError(str(self._fault))
        if self.strict:
            self._require_answer()
        elif self._clock() - self._listener.read_at > BOUND_SECONDS:
            self._require_young()
        changes = self._generation.changes
        if changes == self._seen:
            return False
        self._seen = changes
        return True

    def explains(self, conn: Connection, entries: int) -> bool:
        """Return True if each generation since the last call can have an entry, on the same server.

        Every transaction that raises the number records at least one change (``PostgresqlDatabase``).
        """
        number, restarts = number_in(conn, self._name), self._generation.restarts
        explained = restarts == self._restarts and 0 <= number - self._explained <= entries
        self._explained, self._restarts = number, restarts
        return explained

    def ask(self, done: Done) -> None:
        """Have ``done`` called once the generation was read anew."""
        self._listener.ask(done)

    @contextmanager
    def sharing(self, answered: bool) -> Iterator[None]:  # noqa: FBT001 - what ``ask`` calls its argument with
        """Let all calls of ``moved`` in this thread within the block share an answer."""
        self._shared.answered = answered
        try:
            yield
        finally:
            self._shared.answered = None

    def asking(self) -> AbstractContextManager[None]:
        """Do the same with an answer that is waited for now."""
        return self.sharing(self._ask_and_wait())

    def outage(self) -> Outage | None:
        """Return how long the server has not answered, and what is done meanwhile; None if it answers."""
        if self._listener.away_since() is None:
            return None
        age, limit = self._age(), self._consistency.limit_seconds
        is_bridged = not self.strict and age <= limit
        if self.strict:
            meanwhile = "nothing that is cached is used meanwhile (store.consistency is strict)"
        elif is_bridged:
            meanwhile = f"what is cached is used for {limit - age:.0f} seconds more, and nothing is changed"
        else:
            meanwhile = "what is cached is too old to be used (store.stale_seconds)"
        return Outage(f"{self._name} has not answered for {age:.0f} seconds: {meanwhile}", age, is_bridged)

    def refuse(self, fault: StoreError) -> None:
        """Raise this error in all later calls of ``moved``."""
        self._fault = fault

    def close(self) -> None:
        """End the listener, unless it belongs to the parent of a forked child."""
        if self._guard.foreign:
            return
        self._fault = StoreError("this change signal has been closed")
        self._listener.close()

    def _age(self) -> float:
        return self._clock() - self._listener.read_at

    def _require_answer(self) -> None:
        """Read the generation now, unless this was done for all requests of the turn."""
        answered = self._shared.answered
        if not (self._ask_and_wait() if answered is None else answered):
            raise DependencyTimeoutException(_STRICT.format(name=self._name))

    def _require_young(self) -> None:
        """Wait once for a newer generation if the last one is overdue; without one, refuse what is too old.

        The listener may have been kept from the processor, or the whole machine may have slept.
        """
        if self._listener.away_since() is None and self._ask_and_wait():
            return
        if self._age() > self._consistency.limit_seconds:
            self._refuse_stale()

    def _refuse_stale(self) -> Never:
        limit = self._consistency.limit_seconds
        raise DependencyTimeoutException(_STALE.format(name=self._name, age=self._age(), limit=limit))

    def _ask_and_wait(self) -> bool:
        """Wait for the server's answer; False if it is known to be away, or the listener does not get to asking it."""
        event, answers = threading.Event(), list[bool]()

        def note(answered: bool) -> None:  # noqa: FBT001 - as above
            answers.append(answered)
            event.set()

        self._listener.ask(note)
        until = time.monotonic() + _WAIT_SECONDS
        while not event.wait(_LOOK_SECONDS):
            if self._listener.away_since() is not None or time.monotonic() > until:
                return False
        return answers[0]
