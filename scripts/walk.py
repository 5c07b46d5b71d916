"""Follow requests through hsmkms with ``sys.setprofile``: the calls of its own code, and its changes of file.

An installation on a fresh SoftHSM token is served in this process as a worker serves it: sockets, connections, handler,
pipeline, device. Requests come over HTTP, signed by botocore, from a client on the same event loop; what is not code of
hsmkms is not counted. Comprehensions are not counted either: some versions of Python call them, others do not.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

import uvloop
from bench import make_installation
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_der_public_key

import hsmkms
from hsmkms import Kms
from hsmkms.config.settings import Settings
from hsmkms.server.app import Application
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.latency_gate import LatencyGate
from hsmkms.server.process.connection import Connection
from hsmkms.server.process.connections import connections_of
from hsmkms.server.worker_state import WorkerState
from hsmkms.wiring import core as wiring

PACKAGE = f"{Path(hsmkms.__file__).parent}/"
REGION = "us-east-1"
USER = "walker"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
CONTEXT = {"purpose": "walk"}
WARM_UPS = 9
"""Requests before those that are followed: caches are filled, and the lease of encryption counts holds some more."""
FOLLOWED = 5
"""Requests of which the shortest counts: what happens once a second is not in it."""

_COMPREHENSIONS = frozenset({"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"})

Members = dict[str, Any]


class Step(NamedTuple):
    """A call: the file below the package, the function's name and first line, and how deep in hsmkms's code it is."""

    file: str
    function: str
    line: int
    depth: int

    def __str__(self) -> str:
        return f"{'  ' * self.depth}{self.file}:{self.line} {self.function}"


class Walk:
    """The calls that were made while it followed, in their order, of all threads."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._here = threading.local()
        self._following = False

    @property
    def changes(self) -> int:
        """How often a call is in another file than the call before it."""
        files = [step.file for step in self.steps]
        return sum(before != after for before, after in itertools.pairwise(files))

    @property
    def files(self) -> int:
        """Over how many files the calls go."""
        return len({step.file for step in self.steps})

    @contextmanager
    def following(self) -> Iterator[None]:
        """Record what is called in this block."""
        self._following = True
        try:
            yield
        finally:
            self._following = False

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        """Hear of a call or a return: the hook of ``sys.setprofile`` and ``threading.setprofile``."""
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_name in _COMPREHENSIONS:
            return
        depth = getattr(self._here, "depth", 0)
        if event == "call":
            self._here.depth = depth + 1
            if self._following:
                file = code.co_filename.removeprefix(PACKAGE)
                self.steps.append(Step(file, code.co_qualname, code.co_firstlineno, depth))
        elif event == "return":
            self._here.depth = depth - 1


class Quick(LatencyGate):
    """Finds token and disk quick, however slow they look while they are profiled on a machine that has other work."""

    def note(self, seconds: float, now: float) -> None:
        """Count it, and stay with the event loop."""
        super().note(seconds, now)
        self.slow = False


class Client:
    """Sends signed requests on one connection, from the loop on which they are answered."""

    def __init__(self, port: int, credentials: Credentials) -> None:
        self._port = port
        self._credentials = credentials

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def call(self, operation: str, **members: object) -> Members:
        """Answer of an operation; RuntimeError for anything but success."""
        self._writer.write(self._request(operation, members))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        body = await self._reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        if not head.startswith("http/1.1 200 "):
            raise RuntimeError(f"{operation} was refused: {body.decode()}")
        return json.loads(body) if body else {}

    def _request(self, operation: str, members: Members) -> bytes:
        body = json.dumps(members)
        headers = {
            "Host": f"127.0.0.1:{self._port}",
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{operation}",
        }
        request = AWSRequest("POST", f"http://127.0.0.1:{self._port}/", data=body, headers=headers)
        SigV4Auth(self._credentials, "kms", REGION).add_auth(request)
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        return f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n{body}".encode()


# -- the walks --------------------------------------------------------------------------------------------------------


async def encrypt(client: Client, walk: Walk) -> None:
    """Encrypt 64 bytes with an encryption context."""
    await _encrypt(client, walk)


async def decrypt(client: Client, walk: Walk) -> None:
    """Decrypt what Encrypt gave, without naming the key."""
    sealed = (await _encrypt(client, Walk()))["CiphertextBlob"]
    await _warm_and_follow(client, walk, "Decrypt", CiphertextBlob=sealed, EncryptionContext=CONTEXT)


async def import_key(client: Client, walk: Walk) -> None:
    """Import 32 bytes by RSAES_OAEP_SHA_1 into a fresh key."""
    key_id = (await client.call("CreateKey", Origin="EXTERNAL"))["KeyMetadata"]["KeyId"]
    parameters = await client.call(
        "GetParametersForImport", KeyId=key_id, WrappingAlgorithm="RSAES_OAEP_SHA_1", WrappingKeySpec="RSA_2048"
    )
    public = load_der_public_key(b64decode(parameters["PublicKey"]))
    if not isinstance(public, RSAPublicKey):
        raise TypeError(public)
    wrapped = public.encrypt(bytes(range(32)), OAEP(MGF1(SHA1()), SHA1(), None))  # noqa: S303 - what SoftHSM can do
    with walk.following():
        await client.call(
            "ImportKeyMaterial",
            KeyId=key_id,
            ImportToken=parameters["ImportToken"],
            EncryptedKeyMaterial=b64encode(wrapped).decode(),
            ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )


async def rotate(client: Client, walk: Walk) -> None:
    """Rotate a key on demand."""
    key_id = await _new_key(client)
    with walk.following():
        await client.call("RotateKeyOnDemand", KeyId=key_id)


WALKS: dict[str, Callable[[Client, Walk], Any]] = {
    "encrypt": encrypt,
    "decrypt": decrypt,
    "import": import_key,
    "rotate": rotate,
}


async def _new_key(client: Client) -> str:
    key_id: str = (await client.call("CreateKey"))["KeyMetadata"]["KeyId"]
    return key_id


async def _encrypt(client: Client, walk: Walk) -> Members:
    plaintext = b64encode(bytes(64)).decode()
    key_id = await _new_key(client)
    return await _warm_and_follow(client, walk, "Encrypt", KeyId=key_id, Plaintext=plaintext, EncryptionContext=CONTEXT)


async def _warm_and_follow(client: Client, walk: Walk, operation: str, **members: object) -> Members:
    for _ in range(WARM_UPS):
        await client.call(operation, **members)
    ways = []
    for _ in range(FOLLOWED):
        walk.steps = []
        with walk.following():
            answer = await client.call(operation, **members)
        ways.append(walk.steps)
    walk.steps = min(ways, key=len)
    return answer


# -- the server -------------------------------------------------------------------------------------------------------


async def follow(state: WorkerState, settings: Settings, credentials: Credentials, name: str) -> Walk:
    """Serve an open installation on a free port, as a worker does, follow a request, and close it."""
    walk, loop = Walk(), asyncio.get_running_loop()
    sys.setprofile(walk.note)
    threading.setprofile(walk.note)
    application = Application(state, loop, secure=False)
    application.turns.latency, application.audit_gate.latency = Quick(), Quick()
    connections = connections_of(settings.serve)
    server = await loop.create_server(lambda: Connection(application, connections, loop.time), "127.0.0.1", 0)
    try:
        async with Client(server.sockets[0].getsockname()[1], credentials) as client:
            await WALKS[name](client, walk)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        server.close()
        application.end()
    return walk


def walks(folder: Path, names: list[str]) -> dict[str, Walk]:
    """Make an installation with a user in a folder, and follow requests of his, each in an installation just opened."""
    settings = make_installation(folder)
    board = folder / "board"
    board.mkdir()
    with Kms(wiring.core_of(settings)) as kms:
        kms.operator.credentials.create_user(USER)
        kms.operator.identities.put_user_policy(USER, "use", json.dumps(POLICY))
        key = kms.operator.credentials.create_access_key(USER)
    credentials = Credentials(key.access_key_id, key.secret_access_key)
    followed = {}
    for name in names:
        state = WorkerState(Kms(wiring.core_of(settings)), settings.serve, board, Heartbeat())
        followed[name] = uvloop.run(follow(state, settings, credentials, name))
    return followed


def main() -> None:
    """Parse the arguments, walk, and print."""
    parser = argparse.ArgumentParser(
        prog="scripts/walk", description="Count the calls and changes of file of requests."
    )
    parser.add_argument("walk", nargs="*", metavar="WALK", help=f"{', '.join(WALKS)}; all of them, if none is named")
    parser.add_argument("--lines", action="store_true", help="print the path itself as well")
    arguments = parser.parse_args()
    names = arguments.walk or [*WALKS]
    if unknown := [name for name in names if name not in WALKS]:
        parser.error(f"there is no walk {unknown[0]}: choose from {', '.join(WALKS)}")
    with tempfile.TemporaryDirectory(prefix="hsmkms-walk-") as folder:
        followed = walks(Path(folder), names)
    if arguments.lines:
        for name, walk in followed.items():
            print(f"{name}:", *walk.steps, sep="\n")
    print("| walk | calls | changes of file | files |\n|---|---|---|---|")
    for name, walk in followed.items():
        print(f"| {name} | {len(walk.steps)} | {walk.changes} | {walk.files} |")


if __name__ == "__main__":
    main()
