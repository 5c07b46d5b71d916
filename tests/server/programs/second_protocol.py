"""A server with a second protocol, which answers what is sent to /other: CONFIG ACCESS_KEY_ID SECRET.

Prints, as JSON, what each request was answered: its status, content type and body.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from raw_client import raw, signed

from hsmkms.config import settings as config
from hsmkms.errors import AccessDeniedException
from hsmkms.kms import Kms
from hsmkms.server import protocols, worker_state
from hsmkms.server.app import Application
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.messages import RawRequest, Refusal, Response
from hsmkms.server.process.connection import Connection
from hsmkms.server.process.connections import Connections
from hsmkms.server.protocol import Handled, ServedProtocol, Source
from hsmkms.testing import Endpoint
from hsmkms.wiring import core as wiring

TYPE = (("Content-Type", "text/plain"),)
LARGE = 100_000


class Echo:
    """Echo requests; large bodies are not accepted."""

    def operation_of(self, request: RawRequest) -> str | None:
        """It has none."""
        del request

    def authenticate(self, request: RawRequest, source: Source, operation: str | None, handled: Handled) -> None:
        """Answer with the body."""
        del source, operation
        handled.response = Response(200, TYPE, request.body)

    def perform(self, handled: Handled) -> None:
        """Do nothing: there is a response."""

    def render(self, handled: Handled) -> None:
        """Do nothing: there is a response."""

    def largest_body(self, head: RawRequest) -> int:
        """None."""
        raise AccessDeniedException(f"nothing large to {head.path}")


def failure(error: Exception, request_id: str, head: RawRequest | None = None) -> Response:
    """An error as a text."""
    del request_id, head
    return Response(400, TYPE, str(error).encode())


def refusal(refused: Refusal) -> Response:
    """A refusal as a text."""
    return Response(refused.status, TYPE, refused.message.encode())


OTHER = ServedProtocol(
    name="echo",
    takes=lambda request: request.path == "/other",
    failure=failure,
    refusal=refusal,
    open=lambda *_: Echo(),
)


async def play(state: worker_state.WorkerState, endpoint: Endpoint) -> list[tuple[int, str, str]]:
    """Ask both over one connection each."""
    loop = asyncio.get_running_loop()
    application = Application(state, loop, secure=False)
    server = await loop.create_server(lambda: Connection(application, Connections(), loop.time), "127.0.0.1", 0)
    random = json.dumps({"NumberOfBytes": 8}).encode()
    requests = [
        raw("POST", "/other", {"Host": "x"}, b"hello"),
        raw("POST", "/other", {"Host": "x"}, bytes(LARGE)),
        raw("POST", "/", signed(endpoint, "GenerateRandom", random), random),
        raw("POST", "/", {"Host": "x"}, bytes(LARGE)),
        b"no request\r\n\r\n",
    ]
    answers = [await ask(server, request) for request in requests]
    server.close()
    application.audit_gate.close()
    return answers


async def ask(server: asyncio.Server, request: bytes) -> tuple[int, str, str]:
    """Status, content type and body of an answer."""
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    fields: dict[str, Any] = dict(line.split(": ") for line in head.splitlines()[1:-1])
    body = await reader.readexactly(int(fields["Content-Length"]))
    writer.close()
    return int(head.split()[1]), fields["Content-Type"], body.decode()


settings = config.load(Path(sys.argv[1]))
url = "http://127.0.0.1:1"
endpoint = Endpoint(url, settings.default_region, sys.argv[2], sys.argv[3])
worker_state.PROTOCOLS = (OTHER, *worker_state.PROTOCOLS)
protocols.OTHERS = [OTHER]
with Kms(wiring.core_of(settings)) as kms, tempfile.TemporaryDirectory() as board:
    state = worker_state.WorkerState(kms, settings.serve, Path(board), Heartbeat())
    sys.stdout.write(json.dumps(uvloop.run(play(state, endpoint))))
