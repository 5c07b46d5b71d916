"""Hostile requests for a development server: a hundred kinds of wrong, many at once, and what may never happen.

Everything comes from one seed. What may never happen: an answer of 500 and above, an answer that is no JSON with a
code, no answer at all, a fault in the server's log, or a worker that grows. The test suite sends ten thousand;
``scripts/fuzz`` as many as there is time for.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import botocore.session
from botocore.model import Shape
from msgspec import Struct, field

from hsmkms.model.operations import OPERATIONS
from hsmkms.server.aws import sigv4
from hsmkms.testing import Endpoint, read_endpoint

CONNECTIONS: Final = 4
BATCH: Final = 25
BATCH_BYTES: Final = 60_000
"""So little that neither side waits for the other to read."""

ANSWER_SECONDS: Final = 30.0
MODEL: Final = botocore.session.get_session().get_service_model("kms")
NAMES: Final = (*MODEL.operation_names, *sorted(OPERATIONS) * 3)
"""Every operation of the model, and more often those that are built."""
TEXTS: Final = (
    *(
        "",
        " ",
        "a",
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "\u202e",
        "\ufeff",
        "\U0010ffff",
        "' OR 1=1 --",
        "../../etc/passwd",
    ),
    *("%s%n", "{0}", "alias/", "alias/aws/", "alias/aws/s3", "alias/a\x00b", "mrk-", "arn:aws:kms", "arn:" + ":" * 50),
    *("arn:aws:kms:us-east-1:000000000000:key/", "arn:aws:kms:us-east-1:000000000000:alias/x", "x" * 2049, "9" * 400),
    *("1234abcd-12ab-34cd-56ef-1234567890ab", "AES_256", "SYMMETRIC_DEFAULT", "eA==", "\u00e9\u4e2d", "null", "NaN"),
)
NUMBERS: Final = (0, -1, 1, 7, 90, 1000, 1025, 2**31, -(2**31) - 1, 2**53, 2**63, 2**64, 10**40, 0.5, -0.0, 1e300, 8.0)
RAW_JSON: Final = (
    *(b"", b"{", b"[]", b"null", b"0", b'"x"', b"{}{}", b"{,}", b'{"a"}', b"\x00", b"\xff\xfe{\x00}\x00", b"nul"),
    *(b'{"Limit": NaN}', b'{"Limit": Infinity}', b'{"Limit": 1e999}', b'{"Limit": -0}', b'{"Limit": 01}'),
    *(
        b'{"Limit": 1' + b"0" * 5000 + b"}",
        b'{"KeyId": "\\ud800"}',
        b'{"KeyId": "\xed\xa0\x80"}',
        b'{"KeyId": "\\u0000"}',
    ),
    *(b'{"KeyId": "\xc3\x28"}', b'{"KeyId": "a", "KeyId": 5, "KeyId": null}', b"\xef\xbb\xbf{}", b"[" * 20_000),
    *(b'{"a":' * 5_000, b'{"a":' * 3_000 + b"1" + b"}" * 3_000, b'{"Tags": ' + b"[" * 900 + b"]" * 900 + b"}"),
    *(
        b'{"ValidTo": 1e400}',
        b'{"ValidTo": "2030-01-01"}',
        b'{"Plaintext": "****"}',
        b'{"Plaintext": "eA"}',
        b"{}" + b" " * 999,
    ),
)
HEADS: Final = (
    b"\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: " + b"0" * 5000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFF\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nX: \x00\r\n\r\n",
    b"POST / HTTP/1.1\r\n: empty\r\n\r\n",
    b"POST / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
    b"POST / HTTP/1.1\r\nA b: c\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n",
    b"POST / HTTP/1.1\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST \xff\xfe HTTP/1.1\r\n\r\n",
    b"BREW / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    b"GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x00" * 60,
)
"""What is no request at all, or ends its connection."""


class Report(Struct):
    """What came of it: how many requests were sent, the answers by code, and what should never have happened."""

    sent: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Server(Struct):
    """A development server, what it writes to standard error, and its worker."""

    process: "subprocess.Popen[str]"
    endpoint: Endpoint
    log: Path

    def memory(self) -> int:
        """Bytes that the workers hold in memory now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        status = "".join(Path(f"/proc/{child}/status").read_text() for child in children)
        return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def complaints(self) -> list[str]:
        """Lines of its log that speak of a fault in hsmkms."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "met a fault" in line or "Traceback" in line or "Exception in" in line]


@contextlib.contextmanager
def development_server() -> Iterator[Server]:
    """A server of one's own, whose log is kept while it runs."""
    with tempfile.NamedTemporaryFile(prefix="hsmkms-fuzz-", suffix=".log") as log:
        command = [sys.executable, "-m", "hsmkms", "serve", "--dev"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            try:
                yield Server(process, read_endpoint(process), Path(log.name))
            finally:
                process.terminate()


class Attacker:
    """Sends hostile requests to one endpoint. The same seed makes the same requests, but for the time in them."""

    def __init__(self, endpoint: Endpoint, seed: int) -> None:
        self._endpoint = endpoint
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        host, port = endpoint.url.removeprefix("http://").split(":")
        self.address = (host, int(port))
        self._host = f"{host}:{port}"
        self._key_id = ""
        self._kinds: tuple[tuple[Callable[[], bytes], int], ...] = (
            (self._members, 60),
            (self._nonsense, 10),
            (self._mutation, 12),
            (self._signature, 10),
            (self._request_line, 4),
            (self._chunks, 4),
        )

    def attack(self, count: int, report: Report) -> None:
        """Send so many requests, on several connections that are kept, in batches sent ahead, around a fresh key."""
        self._key_id = self._endpoint.client().create_key()["KeyMetadata"]["KeyId"]
        end = report.sent + count
        with contextlib.ExitStack() as opened:
            connections = [opened.enter_context(Talk(self.address)) for _ in range(CONNECTIONS)]
            while report.sent < end and not report.faults:
                batches = [self._batch() for _ in connections]
                for connection, batch in zip(connections, batches, strict=True):
                    connection.send(b"".join(batch))
                for connection, batch in zip(connections, batches, strict=True):
                    for request in batch:
                        self.judge(request, connection.answer, report)
                        if connection.ended:  # by a request that was no HTTP: the others are not read
                            connection.reconnect()
                            break
                self._alone(report)

    @staticmethod
    def judge(request: bytes, answer: Callable[[], tuple[int, bytes]], report: Report) -> None:
        """Read the answer to a request, and report it."""
        report.sent += 1
        try:
            status, body = answer()
            parsed = json.loads(body) if body else {}
            code = "ok" if status == 200 else parsed["__type"]
            right = status < 500 and (status == 200 or isinstance(parsed.get("message", ""), str))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            report.faults.append(f"{exc!r} after {request[:2000]!r}")
            return
        report.codes[code] += 1
        if not right:
            report.faults.append(f"{status} {body!r} for {request[:2000]!r}")

    def _alone(self, report: Report) -> None:
        """One request that ends its connection, or a body that is too large or does not come whole."""
        head = self._random.choice(HEADS)
        if self._random.random() < 0.1:
            head = (
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"fff0\r\n" + b"x" * 0xFFF0 + b"\r\n") * 20
            )
        with Talk(self.address) as connection, contextlib.suppress(ConnectionError):
            connection.send(head)
            if self._random.random() < 0.5 or head == b"\r\n\r\n":
                return
            self.judge(head, connection.answer, report)

    def _batch(self) -> list[bytes]:
        makers, weights = zip(*self._kinds, strict=True)
        batch: list[bytes] = []
        size = 0
        for maker in self._random.choices(makers, weights, k=BATCH):
            request = maker()
            size += len(request)
            if batch and size > BATCH_BYTES:
                break
            batch.append(request)
        return batch

    # -- kinds --------------------------------------------------------------------------------------------------

    def _members(self) -> bytes:
        """An operation of the model with members of right and wrong types."""
        name = self._random.choice(NAMES)
        shape = MODEL.operation_model(name).input_shape
        members = (
            {} if shape is None else {each: self._value(of) for each, of in shape.members.items() if self._often()}
        )
        if self._random.random() < 0.1:
            members[self._text()] = self._junk(3)
        text = json.dumps(members, ensure_ascii=self._often())
        return self.signed(name, text.encode("utf-8", "surrogatepass"))

    def _nonsense(self) -> bytes:
        """A body that is no object."""
        return self.signed(self._random.choice(NAMES), self._random.choice(RAW_JSON))

    def _mutation(self) -> bytes:
        """A good body of which some bytes were changed, lost or doubled."""
        name = self._random.choice(("Encrypt", "Decrypt", "ListKeys", "GenerateDataKey", "TagResource", "CreateAlias"))
        good = {"KeyId": self._key_id, "Plaintext": "c2VjcmV0", "EncryptionContext": {"a": "b"}, "KeySpec": "AES_256"}
        body = bytearray(json.dumps(good).encode())
        for _ in range(self._random.randint(1, 4)):
            at = self._random.randrange(len(body))
            piece = self._random.randbytes(self._random.randint(0, 3))
            body[at : at + self._random.randint(0, 5)] = piece
        return self.signed(name, bytes(body))

    def _signature(self) -> bytes:
        """A request whose signature, date, scope or target is damaged."""
        request = bytearray(self.signed("ListKeys", b"{}"))
        at = self._random.randrange(request.index(b"Authorization: "), request.index(b"Content-Length"))
        piece = self._random.choice((b"", b"\xc3\xa9", b"%00", b",", b"/", b"=", b"x" * 3000, b"\xff", b"a"))
        request[at : at + self._random.randint(0, 30)] = piece.replace(b"\r\n", b"")
        lines = bytes(request).split(b"\r\n\r\n")[0].split(b"\r\n")
        kept = [line for line in lines if b": " in line or line.startswith(b"POST")]
        kept = [line for line in kept if not line.lower().startswith(b"content-length")]
        return b"\r\n".join((*kept, b"Content-Length: 2", b"", b"{}"))

    def _request_line(self) -> bytes:
        """Another method, path, target or content type."""
        method = self._random.choice(("GET", "PUT", "DELETE", "OPTIONS", "PATCH", "POST"))
        path = self._random.choice(
            ("/", "//", "/../", "/%00", "/?a=b&&=", "/healthz/", "*", "http://x/", "/" + "a" * 999)
        )
        target = self._random.choice(
            ("", "TrentService.", "Trent.Encrypt", "TrentService.\u00e9", "TrentService." + "E" * 999)
        )
        return self.signed(target, b"{}", method=method, path=path)

    def _chunks(self) -> bytes:
        """A good request in chunks, the last of which bears trailers."""
        request = self.signed("GenerateRandom", b'{"NumberOfBytes": 4}')
        head, _, body = request.partition(b"\r\n\r\n")
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        at = self._random.randint(1, len(body) - 1)
        pieces = (b"%X;x=y\r\n%s\r\n" % (len(each), each) for each in (body[:at], body[at:]))
        return head + b"\r\n\r\n" + b"".join(pieces) + b"0\r\nTrailer: x\r\n\r\n"

    # -- parts --------------------------------------------------------------------------------------------------

    def signed(self, name: str, body: bytes, *, method: str = "POST", path: str = "/") -> bytes:
        """A request with a good signature."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = name if "." in name or not name else f"TrentService.{name}"
        signed = f"host:{self._host}\nx-amz-date:{stamp}\nx-amz-target:{target}\n"
        names = "host;x-amz-date;x-amz-target"
        canonical = f"{method}\n/\n\n{signed}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{stamp[:8]}/{self._endpoint.region}/kms/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = sigv4.signing_key(self._endpoint.secret_access_key, stamp[:8], self._endpoint.region)
        credential = f"{self._endpoint.access_key_id}/{scope}"
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        lines = (
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            f"X-Amz-Date: {stamp}",
            f"Authorization: AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}",
            f"X-Amz-Target: {target}",
            f"Content-Length: {len(body)}",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def _often(self) -> bool:
        return self._random.random() < 0.6

    def _value(self, shape: Shape, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
        """A value of a shape's type, or of any other."""
        if self._random.random() < 0.2 or depth > 4:
            return self._junk(3)
        makers: dict[str, Callable[[Any], Any]] = {
            "string": lambda of: self._random.choice(of.enum) if of.enum and self._often() else self._text(),
            "blob": lambda _: base64.b64encode(
                self._random.randbytes(self._random.choice((0, 1, 32, 999, 5000)))
            ).decode(),
            "integer": lambda _: self._random.choice(NUMBERS),
            "boolean": lambda _: self._often(),
            "timestamp": lambda _: self._random.choice((*NUMBERS, time.time() + 86_400)),
            "list": lambda of: [self._value(of.member, depth + 1) for _ in range(self._random.choice((0, 1, 2, 60)))],
            "map": lambda of: {
                self._text(): self._value(of.value, depth + 1) for _ in range(self._random.randint(0, 3))
            },
            "structure": lambda of: {each: self._value(inner, depth + 1) for each, inner in of.members.items()},
        }
        return makers[shape.type_name](shape)

    def _text(self) -> str:
        if self._random.random() < 0.25:
            return self._key_id
        return self._random.choice(TEXTS)

    def _junk(self, depth: int) -> Any:  # noqa: ANN401 - JSON
        """Any JSON value."""
        kind = self._random.randrange(7 if depth else 5)
        if kind == 5:
            return [self._junk(depth - 1) for _ in range(self._random.randint(0, 3))]
        if kind == 6:
            return {self._text(): self._junk(depth - 1) for _ in range(self._random.randint(0, 3))}
        return (None, True, self._random.choice(NUMBERS), self._text(), False)[kind]


class Talk:
    """One connection and what has come on it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=ANSWER_SECONDS)
        self._received = b""
        self.ended = False

    def reconnect(self) -> None:
        """Connect again."""
        self._socket.close()
        self._connect()

    def send(self, data: bytes) -> None:
        """Send everything."""
        self._socket.sendall(data)

    def answer(self) -> tuple[int, bytes]:
        """The next answer: status and body."""
        while b"\r\n\r\n" not in self._received:
            self._read()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        self.ended = b"Connection: close" in head
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        while len(self._received) < length:
            self._read()
        body, self._received = self._received[:length], self._received[length:]
        return int(head.split()[1]), body

    def _read(self) -> None:
        piece = self._socket.recv(262_144)
        if not piece:
            raise ConnectionError("closed without an answer")
        self._received += piece


def main() -> None:
    """Attack a fresh server for so many seconds or requests: ``--seconds N`` or ``--count N``, and ``--seed N``."""
    import argparse  # noqa: PLC0415 - for scripts/fuzz alone

    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Send hostile requests to a development server.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--count", type=int, help="how many requests, instead of a time")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats a run")
    wanted = parser.parse_args()
    report = Report()
    with development_server() as server:
        attacker = Attacker(server.endpoint, wanted.seed)
        attacker.attack(2000, report)
        memory = server.memory()
        started = time.monotonic()
        while not report.faults and not _enough(report.sent, time.monotonic() - started, wanted.count, wanted.seconds):
            attacker.attack(2000, report)
            _say(f"{report.sent} requests, workers {server.memory() / 2**20:.0f} MB")
        report.faults += server.complaints()
        grown = server.memory() - memory
    _say(
        f"seed {wanted.seed}: {report.sent} requests, workers grew by {grown / 2**20:.1f} MB",
        *report.codes.most_common(),
    )
    for fault in report.faults:
        _say(f"FAULT: {fault}")
    sys.exit(1 if report.faults else 0)


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _enough(sent: int, seconds: float, count: int | None, most_seconds: float) -> bool:
    return sent >= count if count is not None else seconds >= most_seconds


if __name__ == "__main__":
    main()
