"""Parts for programs that put requests into a server's event loop without sockets."""

import asyncio

from hsmkms.server.latency_gate import LatencyGate


class Quick(LatencyGate):
    """Holds the token for quick, however busy the machine is: all is answered on the loop."""

    def note(self, seconds: float, now: float) -> None:
        """What an operation took decides nothing."""


class Transport:
    """Keeps the status of every answer, in a list that several may share; ``answered`` is released by each."""

    def __init__(self, answered: asyncio.Semaphore, statuses: list[int] | None = None) -> None:
        self.statuses = [] if statuses is None else statuses
        self._answered = answered

    def get_extra_info(self, name: str) -> tuple[str, int]:
        """The peer."""
        del name
        return ("127.0.0.1", 4242)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def pause_reading(self) -> None:
        """What comes now waits."""

    def resume_reading(self) -> None:
        """It is read again."""

    def write(self, data: bytes) -> None:
        """An answer."""
        self.statuses.append(int(data.split()[1]))
        self._answered.release()
