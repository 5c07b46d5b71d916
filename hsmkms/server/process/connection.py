"""Serve one HTTP/1.1 connection: httptools parses, this class enforces the limits, and the application answers.

Everything runs on the event loop's own thread. A server whose I/O runs in other threads (granian was measured) passes
the interpreter lock to and fro at every call to the token, which halved the requests per second.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import httptools

from hsmkms.model.sizes import SMALL_REQUEST_BYTES
from hsmkms.server.messages import RawRequest, Refusal, RefusedError, Respond, Response
from hsmkms.server.process import heads
from hsmkms.server.process.connections import LINGERING, Connections
from hsmkms.server.process.limits import (
    HEADER_BYTES,
    LARGE_REQUEST_BYTES,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    REQUEST_BYTES,
    SLICE_BYTES,
    check_encoding,
    chunks_too_large,
    counts,
    frame_too_large,
    too_many_headers,
)
from hsmkms.server.process.refusals import LATE, bad_request, body_too_large, busy

log = logging.getLogger("hsmkms.http")

HEAD_SECONDS: Final = 10.0
BODY_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 0.5
"""Time in which a stopping server still answers new requests, and a client may finish sending a refused one."""


_DIGITS: Final = len(str(SMALL_REQUEST_BYTES))


class Handler(Protocol):
    """The application behind a connection: answers requests, in its own content type. Called on the loop only."""

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Answer a request from an address, at once or later, by calling ``respond`` on the loop."""

    def largest_body(self, head: RawRequest) -> int:
        """Return the limit in bytes of a request's body. RefusedError if it may not exceed 64 KiB."""

    def refusal(self, refused: Refusal) -> Response:
        """Render a refusal of a request that is not acceptable, or for which there is no room."""


class Connection(asyncio.Protocol):
    """The server's side of a connection. ``connections``: all connections of the worker, with their limits."""

    _url: bytes
    _headers: dict[str, str]
    _body: bytes | bytearray
    _fields: int
    _size: int
    _most: int
    _head: int
    _received: int
    _in_body: bool

    def __init__(self, handler: Handler, connections: Connections, now: Callable[[], float]) -> None:
        self._handler = handler
        self._connections = connections
        self._budget = connections.budget
        self._now = now
        self._unread = b""  # received input, unparsed from this offset on, since a request waits
        self._offset = 0
        self._waiting: deque[tuple[RawRequest, str, int]] = deque()
        self._answering: RawRequest | None = None
        self._taken = 0  # bytes of the budget for the request that is being answered
        self._counted = False  # unfinished requests count in the memory budget
        self._going_on = False
        self._parsing = False
        self._persistence = heads.PERSISTENT  # of the request that is being answered
        self._replay = b""  # a head that is parsed again, since the parser stops after the offer of an upgrade
        self._refusal: Response | None = None
        self._ending = False  # only requests that have begun are answered
        self._owed = 0  # unparsed bytes that were received before the end
        self._deaf = False  # no more input is read
        self._lost = False
        self._blocked = False  # the client does not read its responses
        self._reading = True
        self.deadline = 0.0
        self._begin()

    # -- asyncio's calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's own type
        """Begin the connection; refuse it if there are too many."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        self._parser: Any = httptools.HttpRequestParser(self)
        served = len(self._connections.open)
        self._connections.add(self)
        self.deadline = self._now() + HEAD_SECONDS
        if served >= self._connections.most:
            self._turn_away(linger=served < self._connections.most + LINGERING)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection; a request in progress continues, counts until its end, and its response is dropped."""
        del exc
        self._stop_reading()
        self._waiting.clear()
        self._blocked = False
        self._count()
        self._lost = True
        if not self._answering:
            self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse the input, but not while a request waits."""
        if self._deaf:
            return
        if self._answering or self._unread or self._blocked or len(data) > SLICE_BYTES:
            self._unread = self._unread[self._offset :] + data
            self._offset = 0
            self._parse()
            return
        self._feed(data)
        if self._waiting or self._counted:
            self._count()

    def _parse(self) -> None:
        """Parse the received input, slice by slice, until a request waits or no input is left."""
        if self._parsing:
            return  # the loop below continues when the request has its response
        self._parsing = True
        while self._unread and not (self._answering or self._waiting or self._blocked or self._deaf):
            piece = self._unread[self._offset : self._offset + SLICE_BYTES]
            self._offset += len(piece)
            if self._offset >= len(self._unread):
                self._unread, self._offset = b"", 0
            self._feed(piece)
            self._owed -= len(piece)
        self._parsing = False
        self._count()
        self._read_or_pause()

    def _feed(self, piece: bytes) -> None:
        rest = piece
        while rest and self._parser is not None:
            try:
                self._parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as exc:  # offered, and not accepted: HTTP/1.1 continues here
                rest = self._replay + rest[exc.args[0] :]
                if self._parser is not None:
                    self._parser = httptools.HttpRequestParser(self)  # the old one may take nothing more
            except httptools.HttpParserCallbackError as exc:
                cause = exc.__context__
                if isinstance(cause, RefusedError):
                    self._refuse(cause.answer)
                else:  # a bug, which ends this connection only: input is also parsed after another client's response
                    log.exception("a connection is closed: its request could not be read")
                    self._stop_reading()
                    self._transport.abort()
            except httptools.HttpParserError:
                self._refuse(bad_request("This is not HTTP/1.1."))
        if self._url:  # the request is unfinished; the slice in which it begins counts as a whole
            self._received += len(piece)
            if counts(self._received, self._fields, len(self._connections.open)):
                self._check_unfinished()

    def _check_unfinished(self) -> None:
        """Count an unfinished request, and limit everything but its body.

        That is a header without an end, which the parser keeps, and the sizes, extensions and trailers of chunks.
        """
        if self._received - self._size > MAX_HEAD_BYTES + SLICE_BYTES and not self._deaf:
            self._refuse(chunks_too_large() if self._in_body else frame_too_large().answer)
        self._count()

    def pause_writing(self) -> None:
        """Stop reading and answering requests: the client does not read its responses."""
        self._blocked = True
        self._count()
        self._read_or_pause()

    def resume_writing(self) -> None:
        """Continue: the client reads its responses again."""
        self._blocked = False
        self._count()
        self._next()
        self._parse()

    # -- memory -------------------------------------------------------------------------------------------------

    def evict(self) -> None:
        """Drop the unfinished requests: the worker needs the memory for other clients."""
        self._counted = False
        if self._blocked or self._deaf:
            self._transport.abort()
        else:
            self._waiting.clear()
            self._refuse(busy("Too many requests are unfinished: send each as a whole, and read its response."))

    def _count(self) -> None:
        """Report to the memory budget how much the unfinished requests occupy.

        Everything but the body counts twice: the parser keeps a header without an end, and copies it at each piece.
        """
        size = len(self._unread) - self._offset + sum(weight for _, _, weight in self._waiting)
        if self._url and not self._deaf:
            size += REQUEST_BYTES + 2 * self._received - self._size + HEADER_BYTES * self._fields
        if self._blocked:
            size += self._transport.get_write_buffer_size()
        if size or self._counted:
            self._counted = bool(size)
            self._budget.hold(self, size)

    def _stop_reading(self) -> None:
        """Drop the input of incomplete requests, with the parser, which may keep a part of it."""
        self._deaf = True
        self._parser = None
        self._unread, self._offset = b"", 0
        self._begin()

    # -- httptools' calls ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Set the deadline at the first byte of a request."""
        self.deadline = self._now() + HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        """Append a part of the request's target."""
        if self._replay:
            return
        self._url += url
        self._head += len(url)
        if self._head > MAX_HEAD_BYTES:
            raise frame_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers, which follow a body, are ignored."""
        if self._in_body:
            return
        self._head += len(name) + len(value)
        self._fields += 1
        if self._head > MAX_HEAD_BYTES or self._fields > MAX_HEADERS:
            raise frame_too_large() if self._head > MAX_HEAD_BYTES else too_many_headers()
        headers, known, text = self._headers, heads.header_name(name), value.decode("latin-1")
        headers[known] = text if known not in headers else heads.joined(headers[known], text)

    def on_headers_complete(self) -> None:
        """Check the complete head."""
        if self._deaf:
            return
        self.deadline = self._now() + BODY_SECONDS
        self._in_body = True
        encoding = self._headers.get("transfer-encoding")
        if encoding is not None:
            check_encoding(encoding, chunks_known=self._parser.get_http_version() != heads.HTTP_1_0)
        if self._parser.should_upgrade():
            self._ignore_upgrade()
            return
        self._replay = b""
        length = self._headers.get("content-length")
        if length is not None and len(length) >= _DIGITS and (size := heads.size_of(length)) > SMALL_REQUEST_BYTES:
            self._admit(size)
        expected = self._headers.get("expect")
        if expected is not None and expected.lower() == "100-continue":
            self._let_continue()

    def _ignore_upgrade(self) -> None:
        """Answer a client that offers another protocol over HTTP/1.1. The parser would not read the request's body."""
        if self._parser.get_method() == b"CONNECT":
            raise RefusedError(bad_request("This is no proxy: CONNECT is not taken."))
        self._replay = heads.same_frame(self._parser, self._headers)

    def _let_continue(self) -> None:
        """Send 100 Continue to a client that waits for it, but not before its pending responses."""
        if not (self._answering or self._waiting or self._parser.get_http_version() == heads.HTTP_1_0):
            self._transport.write(heads.CONTINUE)

    def on_body(self, piece: bytes) -> None:
        """Append a part of the body. Parts are joined in one buffer: each part alone would take 33 bytes more."""
        self._size += len(piece)
        if self._size > self._most:
            self._admit(self._size)
        if isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body + piece) if self._body else piece

    def _admit(self, size: int) -> None:
        """Let a body grow beyond 64 KiB, if its head allows this size."""
        if size <= MAX_BODY_BYTES and self._most <= SMALL_REQUEST_BYTES:
            self._most = min(self._handler.largest_body(self._request(b"")), MAX_BODY_BYTES)
        if size > self._most:
            raise body_too_large(self._most if size <= MAX_BODY_BYTES else MAX_BODY_BYTES)

    def _request(self, body: bytes) -> RawRequest:
        path, query = ("/", "") if self._url == b"/" else heads.target(self._url)
        return RawRequest(self._parser.get_method().decode("latin-1"), path, query, self._headers, body)

    def on_message_complete(self) -> None:
        """Queue the complete request, and answer it."""
        if self._deaf or self._replay:
            return  # it arrived in one piece with the last request that is answered, or its head is parsed again
        request = self._request(bytes(self._body))
        weight = self._head + self._size + REQUEST_BYTES
        usual = self._parser.should_keep_alive() and "connection" not in self._headers
        persistence = heads.PERSISTENT if usual else heads.persistence_of(self._parser, self._headers)
        self._waiting.append((request, persistence, weight))
        self._deaf = self._ending and self._owed <= 0
        self._begin()
        self._next()

    # -- answering ----------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Answer the requests that the client has begun to send, or begins at this moment, and close."""
        if not self._ending:
            self._ending = True
            self._owed = len(self._unread) - self._offset
            if self._done():
                self.deadline = self._now() + LINGER_SECONDS

    def give_up(self) -> None:
        """The time for a head, a body, the next request, or for taking the last answer is over."""
        if self._answering:
            self.deadline = self._now() + IDLE_SECONDS
        elif self._deaf:
            self._transport.abort()
        elif self._url:
            self._refuse(LATE)
        else:
            self._close()

    def _begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._fields = 0
        self._body = b""
        self._size = 0
        self._most = SMALL_REQUEST_BYTES
        self._head = 0
        self._received = 0
        self._in_body = False

    def _next(self) -> None:
        """Answer the queued requests in order; a response that comes later continues with the next request."""
        if self._going_on:
            return  # the loop below continues when this response, which came at once, is written
        self._going_on = True
        while self._waiting and not (self._answering or self._blocked):
            self._answering, self._persistence, weight = self._waiting.popleft()
            if weight > LARGE_REQUEST_BYTES:
                self._count()  # it is no longer unfinished
                if not self._budget.take(weight):
                    self._write(self._handler.refusal(busy("Too many large requests wait for their responses.")))
                    continue
                self._taken = weight
            self._handler(self._answering, self._address, self._write)
        self._going_on = False
        if self._refusal is not None and not (self._answering or self._waiting):
            refusal, self._refusal = self._refusal, None
            self._write_refusal(refusal)

    def _write(self, response: Response) -> None:
        """Write a response, and continue with the next request."""
        request, self._answering = self._answering, None
        if self._taken:
            self._budget.release(self._taken)
            self._taken = 0
        if not self._transport.is_closing():
            persistence = heads.CLOSED if self._ending and self._done() else self._persistence
            body = b"" if request is not None and request.method == "HEAD" else response.body
            self._transport.write(heads.head_of(response, persistence) + body)
            if persistence is heads.CLOSED:
                self._close()
            elif not self._url:
                self.deadline = self._now() + IDLE_SECONDS
        elif self._lost:
            self._connections.discard(self)
        if self._waiting or self._refusal is not None:
            self._next()
        if (self._unread or self._counted) and not self._waiting:
            self._parse()

    def _read_or_pause(self) -> None:
        """Pause reading while input waits for a response, or responses for the client."""
        wanted = not (self._blocked or self._unread)
        if wanted is not self._reading and not self._transport.is_closing():
            self._reading = wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def _done(self) -> bool:
        """Return True if no request is in progress, waits, or has begun."""
        return not (self._answering or self._waiting or ((self._url or self._unread) and not self._deaf))

    def _close(self) -> None:
        """Close when the client has read the responses, for which it has the time of a body."""
        self._stop_reading()
        self._waiting.clear()
        self.deadline = self._now() + BODY_SECONDS
        self._transport.close()

    def _refuse(self, answer: Refusal | Response) -> None:
        """Answer after the earlier requests, and close: the input after an invalid request cannot be parsed."""
        self._stop_reading()
        self._refusal = self._handler.refusal(answer) if isinstance(answer, Refusal) else answer
        self._next()

    def _turn_away(self, *, linger: bool) -> None:
        """Refuse a connection beyond the limit; the client may retry."""
        refused = busy("This server has as many connections as it may: use fewer, or try again.")
        if linger:
            self._refuse(refused)
        else:
            self._deaf = True
            response = self._handler.refusal(refused)
            self._transport.write(heads.head_of(response, heads.CLOSED) + response.body)
            self._transport.close()

    def _write_refusal(self, response: Response) -> None:
        """Write a refusal and half-close: closing while the client still sends would discard the response."""
        if self._transport.is_closing():
            return
        self._transport.write(heads.head_of(response, heads.CLOSED) + response.body)
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()
            self.deadline = self._now() + LINGER_SECONDS
        else:
            self._close()
