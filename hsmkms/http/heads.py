"""Heads of requests and responses as bytes of HTTP/1.1."""

import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import httptools

from hsmkms.http.protocol import Response
from hsmkms.http.refusals import head_too_large

MAX_NAME_BYTES: Final = 256

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_header_line: Final = "%s: %s\r\n".__mod__


def target(url: bytes) -> tuple[str, str]:
    """Path and query of a request's target; it may be a whole URL, as proxies send it."""
    path, _, query = url.partition(b"?")
    if not url.startswith(b"/"):
        with suppress(httptools.HttpParserInvalidURLError):
            path = httptools.parse_url(url).path or b"/"
    return path.decode("latin-1"), query.decode("latin-1")


@lru_cache(maxsize=256)
def header_name(name: bytes) -> str:
    """In lower case. Clients send the same names again and again: they are decoded once, and found by identity.

    RefusedError for a long one, which is not kept: 256 of them would fill the cache with what strangers send.
    """
    if len(name) > MAX_NAME_BYTES:
        raise head_too_large(f"The name of a header is longer than {MAX_NAME_BYTES} bytes.")
    return name.decode("latin-1").lower()


def head_of(response: Response, *, keep_alive: bool) -> bytes:
    """Status line and headers of a response, and the blank line."""
    lines = "".join(map(_header_line, response.headers))
    end = _date(int(time.time())) if keep_alive else f"{_date(int(time.time()))}connection: close\r\n"
    return f"{_STATUS_LINES[response.status]}{lines}content-length: {len(response.body)}\r\n{end}\r\n".encode("latin-1")


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """The header with the date of a second: clients correct their clocks by it."""
    return f"date: {formatdate(second, usegmt=True)}\r\n"
