"""What answers in the place of a worker that has not opened the token yet: 503 to everything, and the pages.

It has neither token nor database, so nothing can keep it from answering.
"""

from pathlib import Path
from typing import Final

import msgspec

from hsmkms import uuids
from hsmkms.errors import TokenUnavailableError
from hsmkms.server.heartbeat import Pulse
from hsmkms.server.messages import RawRequest, Refusal, RefusedError, Respond, Response
from hsmkms.server.monitoring.metrics import CONTENT_TYPE, bare_page
from hsmkms.server.monitoring.worker_counts import Board
from hsmkms.server.protocol import AWAY
from hsmkms.server.protocols import DEFAULT, protocol_of

FAULT_FILE: Final = "token-fault"
"""Where a worker that could not open the token leaves why, in the folder of the counts."""

_JSON: Final = (("Content-Type", "application/json"),)


class StandIn:
    """Answers for a worker that is being started. ``board``, ``replaced``: as of worker_state.py."""

    def __init__(self, board: Path, replaced: Pulse) -> None:
        self._board = Board(board)
        self._fault = board / FAULT_FILE
        self._replaced = replaced

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer now."""
        del address
        if request.method in ("GET", "HEAD") and request.path in ("/healthz", "/readyz", "/metrics"):
            respond(self._page(request.path))
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

    def _page(self, path: str) -> Response:
        faults = {"token": f"{TokenUnavailableError.code}: {self._said()}"}
        if path == "/metrics":
            return Response(
                200, (("Content-Type", CONTENT_TYPE),), bare_page(self._board.totals(), faults, self._replaced)
            )
        if path == "/healthz":
            return Response(200, _JSON, b'{"status":"ok"}')
        return Response(503, _JSON, msgspec.json.encode({"status": "not ready", "faults": faults}))

    def is_well(self) -> bool:
        """Nothing here waits for anything."""
        return True

    def begin(self) -> None:
        """There is nothing to begin."""

    def end(self) -> None:
        """There is nothing to end."""
