"""The log of the server: one JSON object a line, or text for people, to standard error.

Lines of requests are made here without any library, gathered, and written together a few times a second: a system call
for each would cost as much as an encryption. Everything else is written at once, and so is what was gathered before it.
"""

import atexit
import logging
import sys
import threading
import time
from collections import deque
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

FLUSH_SECONDS: Final = 0.2
MAX_WAITING: Final = 50_000
"""Lines that may wait to be written; then whoever has one more waits with them, so that memory has an end."""

MAX_TEXT: Final = 300
"""Characters of what a client has written that a line repeats: more than the longest ARN of a key or alias."""


class RequestLine(Struct, kw_only=True):
    """What is written of a request: names and numbers, never a plaintext, a blob or a secret."""

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
    """Lines that wait to be written. Thread-safe."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()  # its append and popleft are atomic
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, line: bytes) -> None:
        """Keep a line for at most ``FLUSH_SECONDS``."""
        self._lines.append(line)
        if self._thread is None:
            self._begin()
        elif len(self._lines) >= MAX_WAITING:
            self.write_out()

    def write_out(self) -> None:
        """Write what was gathered."""
        with self._writing:
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            if taken:
                sys.stderr.buffer.write(b"".join(taken))
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
    """Writes a line for each request."""

    def __init__(self, form: str) -> None:
        self._write = _gathered.add
        self._render = _as_json if form == "json" else _as_text

    def note(self, line: RequestLine) -> None:
        """Write one line, with the time of now."""
        if line.key_id is not None and len(line.key_id) > MAX_TEXT:
            line.key_id = f"{line.key_id[:MAX_TEXT]}..."
        line.timestamp = _stamp(time.time())
        self._write(self._render(line))


def set_up(form: str) -> None:
    """Write what hsmkms logs to standard error in the given form, ``json`` or ``text``."""
    handler = _Handler()
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logger = logging.getLogger("hsmkms")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


# -- forms ------------------------------------------------------------------------------------------------------


def _as_json(line: RequestLine) -> bytes:
    return _encode(line) + b"\n"


def _as_text(line: RequestLine) -> bytes:
    """Every value in JSON's quotes where it is not a plain word, so that a client's line break makes no line."""
    told = msgspec.structs.asdict(line)
    start = f"{told.pop('timestamp')} {told.pop('level')} {told.pop('event')}"
    words = (f"{name}={_word(value)}" for name, value in told.items() if value is not None)
    return f"{start} {' '.join(words)}\n".encode()


def _word(value: object) -> str:
    text = str(value)
    return text if text.isascii() and text.isprintable() and " " not in text else _encode(text).decode()


class _JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        told = _told(self, record)
        return _encode({name: value for name, value in told.items() if value is not None}).decode()


class _TextFormatter(logging.Formatter):
    """A record as text; a traceback follows in lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        told = _told(self, record)
        trace = f"\n{told['exception']}" if told["exception"] else ""
        return f"{told['timestamp']} {told['level']} {told['logger']}: {told['event']}{trace}"


def _told(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str | None]:
    return {
        "event": record.getMessage(),
        "logger": record.name,
        "level": record.levelname.lower(),
        "timestamp": _stamp(record.created),
        "exception": formatter.formatException(record.exc_info) if record.exc_info else None,
    }


class _Handler(logging.StreamHandler[Any]):
    """Writes records in their place after what was gathered."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the lines before this one first."""
        _gathered.write_out()
        super().emit(record)


def _stamp(moment: float) -> str:
    """An instant in UTC, to the microsecond."""
    second = int(moment)
    return f"{_second(second)}.{int((moment - second) * 1e6):06d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_gathered: Final = Gathered()
