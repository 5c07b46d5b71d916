"""Answer in place of a worker that has not opened the token yet: 503 to every request, and the pages.

It uses neither token nor database, so that it can always answer.
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
"""File in the folder of the counts to which a worker that could not open the token writes the reason."""


class StandIn:
    """Answers for a worker that is being started. ``board``, ``replaced``: as of worker_state.py."""

    def __init__(self, board: Path, replaced: Heartbeat) -> None:
        self._board = Board(board)
        self._fault = board / FAULT_FILE
        self._replaced = replaced

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer at once."""
        del address
        if request.method in READING and request.path in PAGES:
            respond(self._page(PAGES[request.path]))
        else:
            respond(protocol_of(request).failure(TokenUnavailableError(AWAY), uuids.new()))

    def largest_body(self, head: RawRequest) -> int:
        """Accept no large body."""
        raise RefusedError(protocol_of(head).failure(TokenUnavailableError(AWAY), uuids.new(), head))

    def refusal(self, refused: Refusal) -> Response:
        """Render a refusal of the connection in the default protocol."""
        return DEFAULT.refusal(refused)

    def _said(self) -> str:
        """Return the reason why the token cannot be opened, as the last worker wrote it."""
        try:
            return self._fault.read_text() or AWAY
        except OSError:
            return AWAY

    def _page(self, page: Page) -> Response:
        faults = {"token": f"{TokenUnavailableError.code}: {self._said()}"}
        return respond_to(page, lambda: (faults, {}), lambda: bare_page(self._board.totals(), faults, self._replaced))

    def is_well(self) -> bool:
        """Return True: no request waits."""
        return True

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""
