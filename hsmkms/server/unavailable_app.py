"""What answers in the place of a worker that has not opened the token yet: 503 to everything, and the pages.

It has neither token nor database, so nothing can keep it from answering.
"""

from pathlib import Path
from typing import Final

import msgspec

from hsmkms import uuids
from hsmkms.errors import TokenUnavailableError
from hsmkms.server.aws import protocol
from hsmkms.server.aws.protocol import Response
from hsmkms.server.aws.sigv4 import RawRequest
from hsmkms.server.heartbeat import Pulse
from hsmkms.server.monitoring.metrics import CONTENT_TYPE, bare_page
from hsmkms.server.monitoring.worker_counts import Board
from hsmkms.server.process.connection import Respond

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
            respond(protocol.failure(TokenUnavailableError(protocol.AWAY), uuids.new()))

    def largest_body(self, head: RawRequest) -> int:
        """Nobody's large body is read."""
        del head
        raise TokenUnavailableError(protocol.AWAY)

    def _said(self) -> str:
        """Why the token cannot be opened, as the last worker that tried has told."""
        try:
            return self._fault.read_text() or protocol.AWAY
        except OSError:
            return protocol.AWAY

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
