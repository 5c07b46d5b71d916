"""One HTTP/1.1 connection: httptools reads, this class keeps the limits, and the application answers.

Everything happens on the event loop's own thread. A server whose I/O runs in other threads (granian was measured) has
to pass Python's lock to and fro at every call to the token, which cost half of the requests a second.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import httptools
import msgspec

from hsmkms.http.protocol import CONTENT_TYPE, Response
from hsmkms.http.sigv4 import RawRequest

MAX_BODY_BYTES: Final = 1024 * 1024
"""More than any request of the API can need: a key policy of 32 KB, an attestation document of 256 KB in base64."""

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 100
MAX_WAITING: Final = 32
"""Requests that a client may send ahead on one connection before it is not read from any more."""

MAX_IN_A_TURN: Final = 1000
"""Connections that the loop hears of by one question to the kernel: libuv takes 1,024 answers, and then asks again."""

HEAD_SECONDS: Final = 10.0
BODY_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 0.5
"""When the server ends, a client may have a request on the way to it: so long after, it is still answered. As long
it may go on to send what has been refused already."""

Respond = Callable[[Response], None]
Answer = Callable[[RawRequest, str, Respond], None]
"""Answers a request from an address, at once or later, by calling back on the loop."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_header_line: Final = "%s: %s\r\n".__mod__
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class _RefusedError(Exception):
    """What was sent is no request that is taken."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = refusal(status, code, message)


def refusal(status: int, code: str, message: str) -> Response:
    """An error that is older than any operation."""
    body = msgspec.json.encode({"__type": code, "message": message})
    return Response(status, (("content-type", CONTENT_TYPE), ("x-amzn-errortype", code)), body, code)


class Connection(asyncio.Protocol):
    """The server's side of a connection. ``everybody`` holds all that are open, for the time limits and for the end."""

    def __init__(self, answer: Answer, everybody: "set[Connection]", now: Callable[[], float]) -> None:
        self._answer = answer
        self._everybody = everybody
        self._now = now
        self._waiting: deque[tuple[RawRequest, bool]] = deque()
        self._answering: RawRequest | None = None
        self._going_on = False
        self._keep_alive = True
        self._refusal: Response | None = None
        self._first = False  # nothing has been completed yet by what was read last
        self._ending = False  # what has begun is answered, nothing else
        self._deaf = False  # nothing is read any more
        self._blocked = False  # the client does not take its answers
        self._reading = True
        self.deadline = 0.0
        self._begin()

    # -- asyncio's calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's own type
        """A client has come."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        self._parser = httptools.HttpRequestParser(self)
        self._everybody.add(self)
        self.deadline = self._now() + HEAD_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone; what is being answered for it goes on and is thrown away."""
        del exc
        self._everybody.discard(self)
        self._waiting.clear()
        self._deaf = True

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._deaf:
            return
        self._first = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as exc:
            cause = exc.__context__
            if not isinstance(cause, _RefusedError):
                raise
            self._refuse(cause.response)
        except httptools.HttpParserError:
            self._refuse(refusal(400, "BadRequestException", "This is not HTTP/1.1."))

    def pause_writing(self) -> None:
        """The client does not read its answers: no more requests of it are read, and none is answered."""
        self._blocked = True
        self._read_or_pause()

    def resume_writing(self) -> None:
        """It reads again."""
        self._blocked = False
        self._read_or_pause()
        self._next()

    # -- httptools' calls ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.deadline = self._now() + HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url
        self._head += len(url)
        if self._head > MAX_HEAD_BYTES:
            raise _head_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._head += len(name) + len(value)
        self._fields += 1
        if self._head > MAX_HEAD_BYTES or self._fields > MAX_HEADERS:
            raise _head_too_large() if self._head > MAX_HEAD_BYTES else _too_many_headers()
        headers, known = self._headers, _header_name(name)
        if known in headers:
            headers[known].append(value.decode("latin-1"))
        else:
            headers[known] = [value.decode("latin-1")]

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self.deadline = self._now() + BODY_SECONDS
        if self._parser.should_upgrade():  # the parser would not read its body
            raise _RefusedError(400, "BadRequestException", "Upgrades are not taken: use HTTP/1.1.")
        length = self._headers.get("content-length")
        if length is not None and (not length[0].isdigit() or int(length[0]) > MAX_BODY_BYTES):
            raise _too_large()
        expected = self._headers.get("expect")
        if expected is not None and expected[0].lower() == "100-continue" and not self._deaf:
            self._transport.write(_CONTINUE)

    def on_body(self, piece: bytes) -> None:
        """A part of the body."""
        self._body.append(piece)
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            raise _too_large()

    def on_message_complete(self) -> None:
        """The whole request is there."""
        if self._deaf:
            return  # it came in the same piece as the last one that is answered
        path, query = ("/", "") if self._url == b"/" else _target(self._url)
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        method = self._parser.get_method().decode("latin-1")
        request = RawRequest(method, path, query, self._headers, body, self._in_turn())
        self._first = False
        self._waiting.append((request, self._parser.should_keep_alive()))
        self._deaf = self._ending
        self._begin()
        if len(self._waiting) >= MAX_WAITING:
            self._read_or_pause()
        self._next()

    def _in_turn(self) -> bool:
        """True if the request that is complete now is answered in this turn of the loop, and had begun before it.

        The loop is told what can be read, and reads; so what it read had begun to come, but for requests that were
        sent ahead: those may have been sent while the loop was at other connections.
        """
        at_once = not (self._waiting or self._answering or self._blocked)
        return self._first and at_once and len(self._everybody) <= MAX_IN_A_TURN

    # -- answering ----------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Answer what the client has begun to send, or begins in these moments, and close."""
        if not self._ending:
            self._ending = True
            if self._done():
                self.deadline = self._now() + LINGER_SECONDS

    def give_up(self) -> None:
        """The time for a head, a body, the next request, or for taking the last answer is over."""
        if self._answering:
            self.deadline = self._now() + IDLE_SECONDS
        elif self._deaf:
            self._transport.abort()
        elif self._url:
            self._refuse(refusal(408, "RequestTimeoutException", "The request did not come in time."))
        else:
            self._close()

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[str, list[str]] = {}
        self._fields = 0
        self._body: list[bytes] = []
        self._size = 0
        self._head = 0

    def _next(self) -> None:
        """Answer the requests one after the other, in their order; an answer that comes later goes on with the next."""
        if self._going_on:
            return  # the loop below goes on when this answer, which was there at once, is written
        self._going_on = True
        while self._waiting and not (self._answering or self._blocked):
            self._answering, self._keep_alive = self._waiting.popleft()
            self._answer(self._answering, self._address, self._write)
        self._going_on = False
        if self._refusal is not None and not (self._answering or self._waiting):
            refusal, self._refusal = self._refusal, None
            self._write_refusal(refusal)

    def _write(self, response: Response) -> None:
        """Write an answer, and go on with what waits for it."""
        request, self._answering = self._answering, None
        if not self._transport.is_closing():
            keep = self._keep_alive and not (self._ending and self._done())
            body = b"" if request is not None and request.method == "HEAD" else response.body
            self._transport.write(_head(response, keep_alive=keep) + body)
            if not keep:
                self._close()
            elif not self._url:
                self.deadline = self._now() + IDLE_SECONDS
            if keep and not self._reading:
                self._read_or_pause()
        if self._waiting or self._refusal is not None:
            self._next()

    def _read_or_pause(self) -> None:
        """Read no further while too much waits: requests for their answers, or answers for the client."""
        wanted = not self._blocked and len(self._waiting) < MAX_WAITING
        if wanted is not self._reading and not self._transport.is_closing():
            self._reading = wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def _done(self) -> bool:
        """True if the client waits for nothing, and has not begun another request."""
        return not (self._answering or self._waiting or (self._url and not self._deaf))

    def _close(self) -> None:
        """Close when the client has taken what was written; it has as long as for a body."""
        self._deaf = True
        self._waiting.clear()
        self.deadline = self._now() + BODY_SECONDS
        self._transport.close()

    def _refuse(self, response: Response) -> None:
        """Answer after the requests before it, and close: what follows cannot be told apart from what was wrong."""
        self._deaf = True
        self._refusal = response
        self._next()

    def _write_refusal(self, response: Response) -> None:
        """Closing while the client still sends would take the answer away from it: first only our side is closed."""
        if self._transport.is_closing():
            return
        self._transport.write(_head(response, keep_alive=False) + response.body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
            self.deadline = self._now() + LINGER_SECONDS
        else:
            self._close()


def _target(url: bytes) -> tuple[str, str]:
    """Path and query of a request's target; it may be a whole URL, as proxies send it."""
    path, _, query = url.partition(b"?")
    if not url.startswith(b"/"):
        with suppress(httptools.HttpParserInvalidURLError):
            path = httptools.parse_url(url).path or b"/"
    return path.decode("latin-1"), query.decode("latin-1")


def _head(response: Response, *, keep_alive: bool) -> bytes:
    lines = "".join(map(_header_line, response.headers))
    end = _date(int(time.time())) if keep_alive else f"{_date(int(time.time()))}connection: close\r\n"
    return f"{_STATUS_LINES[response.status]}{lines}content-length: {len(response.body)}\r\n{end}\r\n".encode("latin-1")


@lru_cache(maxsize=256)
def _header_name(name: bytes) -> str:
    """In lower case. Clients send the same names again and again: they are decoded once, and found by identity."""
    return name.decode("latin-1").lower()


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """The header with the date of a second: clients correct their clocks by it."""
    return f"date: {formatdate(second, usegmt=True)}\r\n"


def _head_too_large() -> _RefusedError:
    return _RefusedError(431, "BadRequestException", f"The headers are larger than {MAX_HEAD_BYTES} bytes.")


def _too_many_headers() -> _RefusedError:
    return _RefusedError(431, "BadRequestException", f"There may be {MAX_HEADERS} headers at most.")


def _too_large() -> _RefusedError:
    return _RefusedError(
        413, "RequestEntityTooLargeException", f"The request body is larger than {MAX_BODY_BYTES} bytes."
    )
