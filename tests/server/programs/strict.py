"""Requests of an installation that is strict about changes of other processes: CONFIG ACCESS_KEY_ID SECRET.

The other one is a second Kms, of whose changes this one learns by asking the database alone. Prints, as JSON, pairs of
the statuses of the answers and the number of questions: of one request; of three in one turn after their key was
disabled; of one for a thread; of two in one turn, after their key was enabled, while the database is away.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop
from loop_client import Quick, Transport
from raw_client import raw, signed

from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.model.keys import CreateKeyRequest, DisableKeyRequest, EnableKeyRequest
from hsmkms.server.app import Application
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.process.connection import Connection
from hsmkms.server.process.connections import Connections
from hsmkms.server.worker_state import WorkerState
from hsmkms.store.postgresql import generation, listener
from hsmkms.testing import Endpoint
from hsmkms.wiring import core as wiring

generation._RAISE = generation._RAISE.replace("pg_notify('hsmkms_generation', '')", "''")  # type: ignore[misc]
listener.POLL_SECONDS = 3600.0  # type: ignore[misc]


class Client:
    """Sends requests, each in a connection of its own, in one turn of the loop."""

    def __init__(self, application: Application, loop: asyncio.AbstractEventLoop) -> None:
        self._application = application
        self._loop = loop
        self._connections = Connections()

    async def send(self, request: bytes, number: int) -> list[int]:
        """Send a request so many times; return the statuses."""
        statuses, answered = list[int](), asyncio.Semaphore(0)
        for _ in range(number):
            connection = Connection(self._application, self._connections, self._loop.time)
            connection.connection_made(cast("asyncio.Transport", Transport(answered, statuses)))
            connection.data_received(request)
        for _ in range(number):
            await answered.acquire()
        return statuses


async def play(kms: Kms, other: Kms, state: WorkerState, endpoint: Endpoint) -> list[tuple[list[int], int]]:
    """The statuses and the number of questions."""
    loop = asyncio.get_running_loop()
    application = Application(state, loop, secure=False)
    application.turns.latency = Quick()
    client, changes = Client(application, loop), kms.operator.watch.changes
    asked: list[Callable[[bool], None]] = []
    ask = changes._listener.ask  # type: ignore[attr-defined]

    def counted(done: Callable[[bool], None]) -> None:
        asked.append(done)
        ask(done)

    changes._listener.ask = counted  # type: ignore[attr-defined]
    key_id = kms.create_key(CreateKeyRequest()).key_metadata.key_id
    body = json.dumps({"KeyId": key_id, "Plaintext": "aGVsbG8="}).encode()
    encrypt = raw("POST", "/", signed(endpoint, "Encrypt", body), body)
    list_keys = raw("POST", "/", signed(endpoint, "ListKeys", b"{}"), b"{}")

    async def answers(request: bytes, number: int) -> tuple[list[int], int]:
        asked.clear()
        return await client.send(request, number), len(asked)

    found = [await answers(encrypt, 1)]
    other.disable_key(DisableKeyRequest(key_id=key_id))
    found += [await answers(encrypt, 3), await answers(list_keys, 1)]
    other.enable_key(EnableKeyRequest(key_id=key_id))
    changes._listener.ask = lambda done: (asked.append(done), done(False))  # type: ignore[attr-defined]
    found.append(await answers(encrypt, 2))
    application._threads.shutdown()
    application.audit_gate.close()
    return found


settings = config.load(Path(sys.argv[1]))
endpoint = Endpoint("http://127.0.0.1:1", settings.default_region, sys.argv[2], sys.argv[3])
with (
    Kms(wiring.core_of(settings)) as kms,
    Kms(wiring.core_of(settings)) as other,
    tempfile.TemporaryDirectory() as board,
):
    state = WorkerState(kms, settings.serve, Path(board), Heartbeat())
    sys.stdout.write(json.dumps(uvloop.run(play(kms, other, state, endpoint))))
