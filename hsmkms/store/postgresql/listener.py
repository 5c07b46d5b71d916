"""Listen for changes of the control plane in a thread, and know how old the newest answer of the server is.

The server sends a notification at the commit of a change. They can be lost, with their connection or by a proxy, so the
generation is also read several times a second, after each new connection, and whenever somebody asks.
"""

import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Final

import psycopg

from hsmkms.errors import HsmKmsError
from hsmkms.store.consistency import BOUND_SECONDS
from hsmkms.store.postgresql.availability import Availability
from hsmkms.store.postgresql.generation import CHANNEL, READ, Generation, only
from hsmkms.store.postgresql.target import RawConnection, Target

log = logging.getLogger("hsmkms.store")

POLL_SECONDS: Final = 0.5 * BOUND_SECONDS
ANSWER_SECONDS: Final = BOUND_SECONDS
"""A server that takes longer to answer counts as away."""

_LOOK_SECONDS: Final = 1.0
_LOOKS: Final = 4
"""After so many looks in a row at a server that is away, connections that wait for an answer are ended."""

_PAUSE_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 10.0

Done = Callable[[bool], None]


class Listener:
    """The thread, its connection, and what they know. ``ask`` is thread-safe."""

    def __init__(
        self, target: Target, generation: Generation, availability: Availability, clock: Callable[[], float]
    ) -> None:
        """Connect, and read the generation. Raises psycopg.Error or StoreError."""
        self._target = target
        self._generation = generation
        self._availability = availability
        self._clock = clock
        self.read_at = clock()
        """When the last reading began that the server answered: it has seen all commits until then."""
        self._reading_since: float | None = None
        self._asking = threading.Lock()
        self._asked: list[Done] = []
        self._stopped = False
        self._closed = threading.Event()
        self._wake_reader, self._wake = os.pipe()
        try:
            first = self._connect()
        except BaseException:
            self._close_pipe()
            raise
        self._thread = threading.Thread(target=self._follow, args=(first,), name="generation", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="availability", daemon=True).start()

    def away_since(self) -> float | None:
        """Return since when the server does not answer; None if it does, as far as is known."""
        if self._availability.since is None:
            reading = self._reading_since
            if reading is not None and self._clock() - reading > ANSWER_SECONDS:
                self._lose(reading, "it has not answered for a second")
        return self._availability.since

    def ask(self, done: Done) -> None:
        """Have ``done`` called after a reading that began after this call: with False if the server is away."""
        is_away = self.away_since() is not None
        with self._asking:
            refused = self._stopped or is_away
            if not refused:
                self._asked.append(done)
                if len(self._asked) == 1:
                    os.write(self._wake, b"!")
        if refused:
            done(False)

    def close(self) -> None:
        """End the thread and close its connection."""
        with self._asking:
            if self._stopped:
                return
            self._stopped = True
            self._closed.set()
            os.write(self._wake, b"!")
        self._thread.join(_CLOSE_SECONDS)
        self._availability.since = None  # nobody knows any more
        self._answer(self._take(), answered=False)
        if not self._thread.is_alive():
            self._close_pipe()

    def _watch(self) -> None:
        """End what waits for a server that is away; the other thread may be waiting for it itself.

        Looks are counted, and not seconds, since this process may have been stopped as well.
        """
        looks = 0
        while not self._closed.wait(_LOOK_SECONDS):
            looks = looks + 1 if self.away_since() is not None else 0
            if looks >= _LOOKS:
                self._availability.end_waiting()

    # -- the thread ---------------------------------------------------------------------------------------------

    def _connect(self) -> RawConnection:
        """Open a connection that listens, and read the generation."""
        connection = self._target.listening().connect()
        try:
            connection.execute(f"LISTEN {CHANNEL}")
            self._read(connection, self._generation.restart)
        except BaseException:
            connection.close()
            raise
        return connection

    def _follow(self, connection: RawConnection | None) -> None:
        """Note each generation until the listener is closed; connect again when the connection is lost."""
        while not self._stopped:
            try:
                connection = connection or self._connect()
                self._wait(connection)
            except Exception as exc:  # without this thread everything cached is refused until a restart
                if not self._stopped:
                    if not isinstance(exc, psycopg.Error | OSError | HsmKmsError):
                        log.exception("the listener of %s failed in an unexpected way", self._target.name)
                    self._lose(self._clock(), str(exc).strip())
                self._answer(self._take(), answered=False)
                if connection is not None:
                    connection.close()
                    connection = None
                _readable(_PAUSE_SECONDS, self._wake_reader)
        if connection is not None:
            connection.close()

    def _wait(self, connection: RawConnection) -> None:
        """Read the number at the next notification, when somebody asks, or after a while.

        What a notification says is not used: whoever may connect to the database can send one.
        """
        if connection.fileno() in _readable(POLL_SECONDS, connection.fileno(), self._wake_reader):
            for _ in connection.notifies(timeout=0):
                pass
        if self._stopped:
            return
        asked, answered = self._take(), False  # whoever asks from here on waits for the next reading
        try:
            self._read(connection, self._generation.note)
            answered = True
        finally:
            self._answer(asked, answered=answered)

    def _read(self, connection: RawConnection, note: Callable[[int], None]) -> None:
        began = self._reading_since = self._clock()
        try:
            note(only([int(row[0]) for row in connection.execute(READ)], self._target.name))
        finally:
            self._reading_since = None
        self.read_at = began
        self._find()

    def _lose(self, since: float, reason: str) -> None:
        """Note that the server is away."""
        with self._asking:
            is_new = self._availability.since is None
            if is_new:
                self._availability.since = since
        if is_new:
            log.error("%s is away, so nothing is changed until it is back: %s", self._target.name, reason)

    def _find(self) -> None:
        """Note that the server answers."""
        with self._asking:
            since, self._availability.since = self._availability.since, None
        if since is not None:
            log.warning("%s is back after %.0f seconds", self._target.name, self._clock() - since)

    def _take(self) -> list[Done]:
        """Return who has asked, with the byte that the first of them has written."""
        with self._asking:
            asked, self._asked = self._asked, []
            if asked:
                os.read(self._wake_reader, 1)
        return asked

    @staticmethod
    def _answer(asked: list[Done], *, answered: bool) -> None:
        for done in asked:
            done(answered)

    def _close_pipe(self) -> None:
        for descriptor in (self._wake_reader, self._wake):
            os.close(descriptor)


def _readable(seconds: float, *descriptors: int) -> set[int]:
    """Wait until one of these can be read, or fails, or so long; return which. select(2) takes none above 1023."""
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
