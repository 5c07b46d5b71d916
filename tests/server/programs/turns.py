"""Requests of one turn of the event loop, while their key is disabled: CONFIG ACCESS_KEY_ID SECRET [secure].

A piece is what one connection has received when the turn begins. Prints, as JSON, the statuses of the answers: of a
piece in an earlier turn, of one just before the key is disabled, of one after, of one with two requests, of one in the
next turn, and of one with a request for a thread and another one, when there are no threads.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import cast

import uvloop
from loop_client import Quick, Transport
from raw_client import raw, signed

from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.model.keys import CreateKeyRequest, DisableKeyRequest
from hsmkms.server.app import Application
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.process.connection import Connection
from hsmkms.server.process.connections import Connections
from hsmkms.server.worker_state import WorkerState
from hsmkms.testing import Endpoint
from hsmkms.wiring import core as wiring


async def play(kms: Kms, state: WorkerState, endpoint: Endpoint, *, secure: bool) -> list[list[int]]:
    """The statuses by piece."""
    loop = asyncio.get_running_loop()
    application = Application(state, loop, secure=secure)
    application.turns.latency = Quick()
    key_id = kms.create_key(CreateKeyRequest()).key_metadata.key_id
    body = json.dumps({"KeyId": key_id, "Plaintext": "aGVsbG8="}).encode()
    request = raw("POST", "/", signed(endpoint, "Encrypt", body), body)
    all_of_them = Connections()
    answered = asyncio.Semaphore(0)
    transports = [Transport(answered) for _ in range(6)]
    connections = [Connection(application, all_of_them, loop.time) for _ in transports]
    for connection, transport in zip(connections, transports, strict=True):
        connection.connection_made(cast("asyncio.Transport", transport))
    earlier, before, after, ahead, later, without_threads = connections
    earlier.data_received(request)
    await answered.acquire()
    before.data_received(request)
    kms.disable_key(DisableKeyRequest(key_id=key_id))
    after.data_received(request)
    ahead.data_received(request + request)
    for _ in range(4):
        await answered.acquire()
    later.data_received(request)
    await answered.acquire()
    application._threads.shutdown()  # it takes no work from now on, as where the system has no thread left
    slow = raw("POST", "/", signed(endpoint, "CreateKey", b"{}"), b"{}")
    without_threads.data_received(slow + request)
    for _ in range(2):
        await answered.acquire()
    application.audit_gate.close()
    return [each.statuses for each in transports]


settings = config.load(Path(sys.argv[1]))
endpoint = Endpoint("http://127.0.0.1:1", settings.default_region, sys.argv[2], sys.argv[3])
with Kms(wiring.core_of(settings)) as kms, tempfile.TemporaryDirectory() as board:
    state = WorkerState(kms, settings.serve, Path(board), Heartbeat())
    sys.stdout.write(json.dumps(uvloop.run(play(kms, state, endpoint, secure=len(sys.argv) > 4))))
