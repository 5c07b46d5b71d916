"""Write the server's log to standard error: one JSON object per line, or text for people.

Request lines are rendered here without the logging library, buffered, and written together a few times a second: a
system call per line would cost as much as an encryption. Every other record is written at once, after flushing the
buffer.
"""

import atexit
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

FLUSH_SECONDS: Final = 0.2
MAX_WAITING: Final = 50_000
"""Buffer limit in lines; a thread that reaches it flushes the buffer itself, so that memory use is bounded."""

MAX_TEXT: Final = 300
"""Limit in characters for client text in a line: more than the longest ARN of a key or alias."""


class RequestLine(Struct, kw_only=True):
    """Log line of a request: names and numbers, never a plaintext, a blob or a secret."""

    request_id: str
    principal: str | None
    operation: str
    region: str | None
    key_id: str | None
    outcome: str
    milliseconds: float
    source: str | None
    event: str = "request"
    level: str = "info"
    timestamp: str = ""


class Gathered:
    """Buffer of lines to be written. Thread-safe."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()  # its append and popleft are atomic
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, line: bytes) -> None:
        """Buffer a line, without its line feed, for at most ``FLUSH_SECONDS``."""
        self._lines.append(line)
        if self._thread is None:
            self._begin()
        elif len(self._lines) >= MAX_WAITING:
            self.write_out()

    def write_out(self) -> None:
        """Flush the buffer."""
        with self._writing:
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            if taken:
                sys.stderr.buffer.write(b"\n".join((*taken, b"")))
                sys.stderr.buffer.flush()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="hsmkms log", daemon=True)
        self._thread.start()
        atexit.register(self.write_out)

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(FLUSH_SECONDS):
            self.write_out()


class RequestLog:
    """Log of requests, one line each."""

    def __init__(self, form: str) -> None:
        self._write = _gathered.add
        self._render: Callable[[RequestLine], bytes] = _encode if form == "json" else _as_text

    def note(self, line: RequestLine) -> None:
        """Write one line, stamped with the current time."""
        if line.key_id is not None and len(line.key_id) > MAX_TEXT:
            line.key_id = f"{line.key_id[:MAX_TEXT]}..."
        now = time.time()
        second = int(now)
        line.timestamp = f"{_second(second)}.{int((now - second) * 1e6):06d}Z"
        self._write(self._render(line))


def set_up(form: str) -> None:
    """Configure the logger ``hsmkms`` to write to standard error as ``json`` or ``text``."""
    handler = _Handler()
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logger = logging.getLogger("hsmkms")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


# -- forms ------------------------------------------------------------------------------------------------------


def _as_text(line: RequestLine) -> bytes:
    """Render as text; values that are not plain words are JSON strings, so that a line break cannot forge a line."""
    fields = msgspec.structs.asdict(line)
    start = f"{fields.pop('timestamp')} {fields.pop('level')} {fields.pop('event')}"
    words = (f"{name}={_word(value)}" for name, value in fields.items() if value is not None)
    return f"{start} {' '.join(words)}".encode()


def _word(value: object) -> str:
    text = str(value)
    return text if text.isascii() and text.isprintable() and " " not in text else _encode(text).decode()


class _JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields_of(self, record)
        return _encode({name: value for name, value in fields.items() if value is not None}).decode()


class _TextFormatter(logging.Formatter):
    """Formats a record as text; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields_of(self, record)
        trace = f"\n{fields['exception']}" if fields["exception"] else ""
        return f"{fields['timestamp']} {fields['level']} {fields['logger']}: {fields['event']}{trace}"


def _fields_of(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str | None]:
    return {
        "event": record.getMessage(),
        "logger": record.name,
        "level": record.levelname.lower(),
        "timestamp": _stamp(record.created),
        "exception": formatter.formatException(record.exc_info) if record.exc_info else None,
    }


class _Handler(logging.StreamHandler[Any]):
    """Handler that flushes buffered request lines before each record, to keep the order."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Flush the buffer, then write the record."""
        _gathered.write_out()
        super().emit(record)


def _stamp(moment: float) -> str:
    """Format an instant in UTC, to the microsecond."""
    second = int(moment)
    return f"{_second(second)}.{int((moment - second) * 1e6):06d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_gathered: Final = Gathered()
