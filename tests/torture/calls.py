"""The two ways in which the load calls hsmkms: signed requests to the endpoint, and commands at the command line.

Both return an ``Answer``, or raise ``UnansweredError`` if the callee died first. Their clock is the server's.
"""

import hashlib
import hmac
import http.client
import json
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, Self

from cli_site import BIN, Site
from msgspec import Struct

SECONDS: Final = 60.0

AWAY: Final = ("HiddenObjectsError", "TokenNotFoundError", "TokenUnavailableError", "WrongTokenError")
"""What a command calls a token that is away when it begins; a server answers DependencyTimeoutException."""


class UnansweredError(Exception):
    """Whether it was done is unknown."""


class Answer(Struct, frozen=True):
    """What came back: ``code`` is "" if it was done."""

    code: str
    status: int
    request_id: str
    body: Any


class Caller(Protocol):
    """A caller of the API's operations."""

    def call(self, operation: str, members: dict[str, Any]) -> Answer:
        """The answer; raises UnansweredError."""

    def reconnect(self) -> None:
        """Leave the process that one talks to, for whichever comes."""


class Shift(Struct):
    """How far the clock of this installation is ahead; it is moved only while no server runs.

    ``library`` was made of clock.c: faketime also touches the clocks that threads wait by, and lets them wait for ever.
    """

    library: Path
    offset: timedelta = timedelta()

    @classmethod
    def build(cls, folder: Path) -> Self:
        """Compile the library, into a folder."""
        library = folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, source], check=True
        )
        return cls(library)

    def now(self) -> datetime:
        """What the clock says."""
        return datetime.now(UTC) + self.offset

    def environment(self) -> dict[str, str]:
        """What gives another program this clock."""
        return {"LD_PRELOAD": str(self.library), "SHIFTED_SECONDS": str(int(self.offset.total_seconds()))}


class HttpCaller:
    """A client with one connection, which is reopened whenever it has ended."""

    def __init__(self, port: int, region: str, access_key: tuple[str, str], shift: Shift) -> None:
        self._host = f"127.0.0.1:{port}"
        self._region = region
        self._access_key = access_key
        self._shift = shift
        self._connection = self._fresh()

    def call(self, operation: str, members: dict[str, Any]) -> Answer:
        """One signed request."""
        body = json.dumps(members).encode()
        try:
            self._connection.request("POST", "/", body, self._headers(f"TrentService.{operation}", body))
            answer = self._connection.getresponse()
            parsed = json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException) as exc:
            self.reconnect()
            raise UnansweredError from exc
        code = "" if answer.status == http.HTTPStatus.OK else str(parsed.get("__type", "?")).rpartition("#")[2]
        return Answer(code, answer.status, answer.headers["x-amzn-RequestId"], parsed)

    def reconnect(self) -> None:
        """Leave the process that one talks to, for whichever comes."""
        self._connection.close()
        self._connection = self._fresh()

    def _fresh(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, timeout=SECONDS)

    def _headers(self, target: str, body: bytes) -> dict[str, str]:
        """Those of a request, with Signature Version 4."""
        date = self._shift.now().strftime("%Y%m%dT%H%M%SZ")
        scope = (date[:8], self._region, "kms", "aws4_request")
        signed = {"host": self._host, "x-amz-date": date, "x-amz-target": target}
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{self._access_key[1]}".encode()
        for each in scope:
            key = hmac.digest(key, each.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{date}\n{'/'.join(scope)}\n{digest}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{self._access_key[0]}/{'/'.join(scope)}"
        authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        return {**signed, "Content-Type": "application/x-amz-json-1.1", "Authorization": authorization}


class CommandCaller:
    """Calls by `hsmkms`, each in a process of its own, which is killed after ``fuse()`` seconds (None: never)."""

    def __init__(self, site: Site, shift: Shift, fuse: Callable[[], float | None]) -> None:
        self._site = site
        self._shift = shift
        self._fuse = fuse

    def call(self, operation: str, members: dict[str, Any]) -> Answer:
        """One command; members that are texts and numbers become its options."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", operation).lower()
        options = [part for name, value in members.items() for part in _option(name, value)]
        status, printed, result = self.run(words, *options)
        match = re.search(r"^hsmkms: (?!log:)(\w+): ", result, re.MULTILINE)  # lines of the log may come before
        code = "" if status == 0 else match[1] if match else f"status {status}: {result}"
        if code in AWAY:
            return Answer("DependencyTimeoutException", 503, "", {})
        return Answer(code, 200 if not code else 400 if match else 500, "", json.loads(printed or "{}"))

    def reconnect(self) -> None:
        """Each command is a process of its own."""

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Status, standard output and standard error of a command; UnansweredError if it was killed."""
        process = subprocess.Popen(
            [BIN / "hsmkms", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._site.environment(**self._shift.environment()),
            cwd=self._site.folder,
            text=True,
        )
        fuse = self._fuse()
        if fuse is not None:
            time.sleep(fuse)
            process.kill()
        printed, error_text = process.communicate(timeout=SECONDS)
        if process.returncode < 0:
            raise UnansweredError
        return process.returncode, printed, error_text


def _option(name: str, value: object) -> tuple[str, ...]:
    option = "--" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
    return (option,) if value is True else (option, str(value))
