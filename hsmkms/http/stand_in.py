"""What answers in the place of a worker that has not opened the token yet: 503 to everything, and the pages.

It has neither token nor database, so nothing can keep it from answering.
"""

from pathlib import Path
from typing import Final

import msgspec

from hsmkms import uuids
from hsmkms.errors import TokenUnavailableError
from hsmkms.http import protocol
from hsmkms.http.connection import Respond
from hsmkms.http.counts import Board
from hsmkms.http.metrics import CONTENT_TYPE, bare_page
from hsmkms.http.protocol import Response
from hsmkms.http.pulse import Pulse
from hsmkms.http.sigv4 import RawRequest

FAULT_FILE: Final = "token-fault"
"""Where a worker that could not open the token leaves why, in the folder of the counts."""

_JSON: Final = (("Content-Type", "application/json"),)


class StandIn:
    """Answers for a worker that is being started. ``board``, ``replaced``: as of serving.py."""

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
