"""Heads of requests and responses as bytes of HTTP/1.1."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import httptools

from hsmkms.server.messages import Response
from hsmkms.server.process.refusals import head_too_large

MAX_NAME_BYTES: Final = 256

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
HTTP_1_0: Final = "1.0"
PERSISTENT: Final = ""
KEPT_ALIVE: Final = "Connection: keep-alive\r\n"
CLOSED: Final = "Connection: close\r\n"
"""What a response says of its connection: HTTP/1.1 goes on without a word, HTTP/1.0 with one."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_FRAMING: Final = ("content-length", "transfer-encoding")
_header_line: Final = "%s: %s\r\n".__mod__


def target(url: bytes) -> tuple[str, str]:
    """Path and query of a request's target; it may be a whole URL, as proxies send it."""
    path, _, query = url.partition(b"?")
    if not url.startswith(b"/"):
        with suppress(httptools.HttpParserInvalidURLError):
            path = httptools.parse_url(url).path or b"/"
    return path.decode("latin-1"), query.decode("latin-1")


def persistence_of(parser: Any, headers: Mapping[str, Sequence[str]]) -> str:  # noqa: ANN401 - httptools has no types
    """What a request wishes of its connection; HTTP/1.0 has to ask for it to go on, and to be told that it does."""
    if not parser.should_keep_alive():
        return CLOSED
    asked = "connection" in headers
    return KEPT_ALIVE if asked and parser.get_http_version() == HTTP_1_0 else PERSISTENT


def same_frame(parser: Any, headers: Mapping[str, Sequence[str]]) -> bytes:  # noqa: ANN401 - httptools has no types
    """A head that frames its body as the one that a parser has just read, and offers no other protocol."""
    line = f"{parser.get_method().decode('latin-1')} / HTTP/{parser.get_http_version()}\r\n"
    persistence = KEPT_ALIVE if parser.should_keep_alive() else CLOSED
    framing = [(name, value) for name in _FRAMING for value in headers.get(name, ())]
    return f"{line}{persistence}{''.join(map(_header_line, framing))}\r\n".encode("latin-1")


@lru_cache(maxsize=256)
def header_name(name: bytes) -> str:
    """In lower case. Clients send the same names again and again: they are decoded once, and found by identity.

    RefusedError for a long one, which is not kept: 256 of them would fill the cache with what strangers send.
    """
    if len(name) > MAX_NAME_BYTES:
        raise head_too_large(f"The name of a header is longer than {MAX_NAME_BYTES} bytes.")
    return name.decode("latin-1").lower()


def head_of(response: Response, connection: str) -> bytes:
    """Status line and headers of a response, and the blank line. ``connection``: PERSISTENT, KEPT_ALIVE or CLOSED.

    Header names are in the usual case: some clients (MongoDB's drivers, for one) compare them with their case.
    """
    lines = "".join(map(_header_line, response.headers))
    end = f"Content-Length: {len(response.body)}\r\n{_date(int(time.time()))}{connection}\r\n"
    return f"{_STATUS_LINES[response.status]}{lines}{end}".encode("latin-1")


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """The header with the date of a second: clients correct their clocks by it."""
    return f"Date: {formatdate(second, usegmt=True)}\r\n"
