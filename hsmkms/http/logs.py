"""The log of the server: one JSON object a line, or text for people. One writer for ours and for libraries' records.

Lines of requests are gathered and written together a few times a second: a system call for each would cost as much as
an encryption. Everything else is written at once, and so is what was gathered before it.
"""

import atexit
import logging
import sys
import threading
from collections import deque
from typing import Any, Final

import msgspec
import structlog

FLUSH_SECONDS: Final = 0.2


class _Gathering:
    """A file for structlog that keeps lines until somebody flushes it, or ``FLUSH_SECONDS`` have passed."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()  # its append and popleft are atomic
        self._writing = threading.Lock()
        self._timer: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Keep a line."""
        self._lines.append(line)

    def flush(self) -> None:
        """Structlog asks for this after each line: the thread does it, now and then."""
        if self._timer is None:
            self._timer = threading.Thread(target=self._run, name="hsmkms log", daemon=True)
            self._timer.start()
            atexit.register(self.write_out)

    def write_out(self) -> None:
        """Write what was gathered."""
        with self._writing:
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            if taken:
                sys.stderr.buffer.write(b"".join(taken))
                sys.stderr.buffer.flush()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(FLUSH_SECONDS):
            self.write_out()


class _Handler(logging.StreamHandler[Any]):
    """For records of the standard library's logging: in their place after what was gathered."""

    def __init__(self, gathered: _Gathering) -> None:
        super().__init__(sys.stderr)
        self._gathered = gathered

    def emit(self, record: logging.LogRecord) -> None:
        """Write the lines before this one first."""
        self._gathered.write_out()
        super().emit(record)


def set_up(form: str) -> None:
    """Write to standard error in the given form, ``json`` or ``text``."""
    gathered = _Gathering()
    handler = _Handler(gathered)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _to_text if form == "json" else structlog.dev.ConsoleRenderer(),
            ],
        )
    )
    for name, level in {"hsmkms": logging.INFO, "_granian": logging.WARNING}.items():
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _to_bytes if form == "json" else _to_console,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(file=gathered),  # type: ignore[arg-type]  # all that it needs
        cache_logger_on_first_use=True,
    )


_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_console: Final = structlog.dev.ConsoleRenderer()


def _to_bytes(_logger: object, _method: str, event: Any) -> bytes:  # noqa: ANN401 - structlog's signature
    return _encode(event)


def _to_text(_logger: object, _method: str, event: Any) -> str:  # noqa: ANN401 - structlog's signature
    return _encode(event).decode()


def _to_console(logger: object, method: str, event: Any) -> bytes:  # noqa: ANN401 - structlog's signature
    return _console(logger, method, event).encode()
