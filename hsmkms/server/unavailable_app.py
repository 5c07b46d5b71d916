"""What answers in the place of a worker that has not opened the token yet: 503 to everything, and the pages.

It has neither token nor database, so nothing can keep it from answering.
"""

from pathlib import Path
from typing import Final

from hsmkms import uuids
from hsmkms.errors import TokenUnavailableError
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.messages import RawRequest, Refusal, RefusedError, Respond, Response
from hsmkms.server.monitoring.metrics import bare_page
from hsmkms.server.monitoring.pages import PAGES, READING, Page, respond_to
from hsmkms.server.monitoring.worker_counts import Board
from hsmkms.server.protocol import AWAY
from hsmkms.server.protocols import DEFAULT, protocol_of

FAULT_FILE: Final = "token-fault"
"""Where a worker that could not open the token leaves why, in the folder of the counts."""


class StandIn:
    """Answers for a worker that is being started. ``board``, ``replaced``: as of worker_state.py."""

    def __init__(self, board: Path, replaced: Heartbeat) -> None:
        self._board = Board(board)
        self._fault = board / FAULT_FILE
        self._replaced = replaced

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer now."""
        del address
        if request.method in READING and request.path in PAGES:
            respond(self._page(PAGES[request.path]))
        else:
            respond(protocol_of(request).failure(TokenUnavailableError(AWAY), uuids.new()))

    def largest_body(self, head: RawRequest) -> int:
        """Nobody's large body is read."""
        raise RefusedError(protocol_of(head).failure(TokenUnavailableError(AWAY), uuids.new(), head))

    def refusal(self, refused: Refusal) -> Response:
        """What a connection refuses, as it does with an open installation."""
        return DEFAULT.refusal(refused)

    def _said(self) -> str:
        """Why the token cannot be opened, as the last worker that tried has told."""
        try:
            return self._fault.read_text() or AWAY
        except OSError:
            return AWAY

    def _page(self, page: Page) -> Response:
        faults = {"token": f"{TokenUnavailableError.code}: {self._said()}"}
        return respond_to(page, lambda: (faults, {}), lambda: bare_page(self._board.totals(), faults, self._replaced))

    def is_well(self) -> bool:
        """Nothing here waits for anything."""
        return True

    def begin(self) -> None:
        """There is nothing to begin."""

    def end(self) -> None:
        """There is nothing to end."""
