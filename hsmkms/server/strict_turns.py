"""Ask the database for changes once for all requests of a turn, before they are answered.

The loop goes on meanwhile: requests that arrive before the answer are asked for together, in the next turn.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Final, Protocol

from hsmkms.server.turns import Arrived, Turns

ANSWER_SECONDS: Final = 5.0
"""After which requests are answered as if the database had said that it is away."""


class Changes(Protocol):
    """Knows of the changes of other nodes."""

    def ask(self, done: Callable[[bool], None]) -> None:
        """Have ``done`` called when all changes until now are known, or with False if the database does not answer."""

    def sharing(self, answered: bool) -> AbstractContextManager[None]:  # noqa: FBT001 - what ``ask`` has answered
        """Let everything in the block share the answer."""


class StrictTurns(Turns):
    """Answers the quick requests of each turn after the database was asked for changes."""

    changes: Changes
    """Set before the first request."""

    def _answer_all(self) -> None:
        """Ask for changes; answer the requests of the turn when the answer is there, or is late."""
        arrived, self._arrived = self._arrived, []
        turn = _Turn(partial(self._answer_informed, arrived))
        late = self._loop.call_later(ANSWER_SECONDS, turn, False)
        turn.late = late.cancel

        def done(answered: bool) -> None:  # noqa: FBT001 - as in Changes
            with suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(turn, answered)

        self.changes.ask(done)

    def _answer_informed(self, arrived: list[Arrived], answered: bool) -> None:  # noqa: FBT001 - as in Changes
        with self.changes.sharing(answered):
            self._answer_arrived(arrived)


class _Turn:
    """Answers the requests of a turn once, whether the database answers or is late."""

    def __init__(self, answer: Callable[[bool], None]) -> None:
        self._answer: Callable[[bool], None] | None = answer
        self.late: Callable[[], None] = lambda: None

    def __call__(self, answered: bool) -> None:  # noqa: FBT001 - as in Changes
        answer, self._answer = self._answer, None
        if answer is not None:
            self.late()
            answer(answered)
