"""Parse and render heads of requests and responses as bytes of HTTP/1.1."""

import time
from collections.abc import Mapping
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
"""Connection headers of responses: HTTP/1.1 connections persist without one, HTTP/1.0 ones need one."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BLANKS: Final = " \t"
_FRAMING: Final = ("content-length", "transfer-encoding")
_header_line: Final = "%s: %s\r\n".__mod__


def target(url: bytes) -> tuple[str, str]:
    """Return path and query of a request's target, which may be an absolute URL, as proxies send it."""
    path, _, query = url.partition(b"?")
    if not url.startswith(b"/"):
        with suppress(httptools.HttpParserInvalidURLError):
            path = httptools.parse_url(url).path or b"/"
    return path.decode("latin-1"), query.decode("latin-1")


def persistence_of(parser: Any, headers: Mapping[str, str]) -> str:  # noqa: ANN401 - httptools has no types
    """Return the connection header for a request's response; HTTP/1.0 persists only if requested and confirmed."""
    if not parser.should_keep_alive():
        return CLOSED
    asked = "connection" in headers
    return KEPT_ALIVE if asked and parser.get_http_version() == HTTP_1_0 else PERSISTENT


def same_frame(parser: Any, headers: Mapping[str, str]) -> bytes:  # noqa: ANN401 - httptools has no types
    """Return a head with the same framing of the body as the one just parsed, and without an upgrade."""
    line = f"{parser.get_method().decode('latin-1')} / HTTP/{parser.get_http_version()}\r\n"
    persistence = KEPT_ALIVE if parser.should_keep_alive() else CLOSED
    framing = [(name, headers[name]) for name in _FRAMING if name in headers]
    return f"{line}{persistence}{''.join(map(_header_line, framing))}\r\n".encode("latin-1")


@lru_cache(maxsize=256)
def header_name(name: bytes) -> str:
    """Decode a header name in lower case, cached since clients send the same names again and again.

    RefusedError for a long one, which is not cached: 256 of them would fill the cache with unauthenticated input.
    """
    if len(name) > MAX_NAME_BYTES:
        raise head_too_large(f"The name of a header is longer than {MAX_NAME_BYTES} bytes.")
    return name.decode("latin-1").lower()


def joined(before: str, value: str) -> str:
    """Return the value of a header that comes again, without the blanks at the ends of its values (RFC 9110, 5.3)."""
    return f"{before.strip(_BLANKS)},{value.strip(_BLANKS)}"


def size_of(length: str) -> int:
    """Return the size that a Content-Length states, which the parser has accepted.

    It may begin with any number of zeros, and int() refuses texts of more than 4300 digits.
    """
    return int(length.rstrip(_BLANKS).lstrip("0") or "0")


def head_of(response: Response, connection: str) -> bytes:
    """Render status line, headers and blank line of a response. ``connection``: PERSISTENT, KEPT_ALIVE or CLOSED.

    Header names are in the usual case: some clients (MongoDB's drivers, for one) compare them with their case.
    """
    lines = "".join(map(_header_line, response.headers))
    end = f"Content-Length: {len(response.body)}\r\n{_date(int(time.time()))}{connection}\r\n"
    return f"{_STATUS_LINES[response.status]}{lines}{end}".encode("latin-1")


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """Render the Date header of a second, by which clients correct their clocks."""
    return f"Date: {formatdate(second, usegmt=True)}\r\n"
