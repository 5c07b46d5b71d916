"""Export the audit log from a position on, and as it is written: for a collector.

The position is kept in a file that is replaced after its records have been written to standard output. So a record is
written again if the process is killed in between, and none is left out.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import msgspec

from hsmkms import atomic_write
from hsmkms.cli.output import pick
from hsmkms.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmkms.service.audit.filters import Fields, Wanted
    from hsmkms.service.audit.following import Cursor

POLL_SECONDS: Final = 0.2
"""Pause between two looks for new records."""

STALL_SECONDS: Final = 2.0
"""How long records may still be written after a signal to end."""


class _StalledError(Exception):
    """Standard output took no more records after the signal to end."""


def follow(folders: Sequence[Path], wanted: "Wanted", query: str | None, cursor: Path | None, *, ends: bool) -> None:
    """Write the records after the position in ``cursor`` as JSON lines; ``ends``: until there are no more at present.

    Otherwise until a signal: the process then ends after the records that are being written.
    """
    from hsmkms.service.audit.following import Follower  # noqa: PLC0415 - help must not pay for it

    follower = Follower(folders, _read(cursor))
    with _signalled() as stop:
        while not stop:
            before = follower.cursor
            records = follower.read()
            try:
                _write(b"".join(_rendered(records, wanted, query)))
            except _StalledError:
                return
            if follower.cursor != before and cursor is not None:
                _replace(cursor, follower.cursor)
            if not records and follower.cursor == before:
                if ends:
                    return
                time.sleep(POLL_SECONDS)


def _rendered(records: "Sequence[tuple[Fields, bytes]]", wanted: "Wanted", query: str | None) -> Iterator[bytes]:
    for fields, record in records:
        if not wanted.fits(fields):
            continue
        if query is None:
            yield record + b"\n"
        elif (picked := pick(msgspec.json.decode(record), query)) is not None:
            yield msgspec.json.encode(picked) + b"\n"


def _write(data: bytes) -> None:
    """Write to standard output, past its buffer: nothing of a batch is left in it when the process ends."""
    sys.stdout.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


@contextmanager
def _signalled() -> Iterator[list[int]]:
    """Yield a list that has the signals to end that have come; a write that stalls after one raises _StalledError."""
    signals: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        signal.setitimer(signal.ITIMER_REAL, STALL_SECONDS)

    def stalled(_number: int, _frame: FrameType | None) -> None:
        raise _StalledError

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGALRM: stalled}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield signals
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(path: Path | None) -> "Cursor":
    """Read a cursor; the beginning of the log if there is no such file yet."""
    from hsmkms.service.audit.following import Cursor, decode_cursor  # noqa: PLC0415 - see above

    try:
        return Cursor({}) if path is None else decode_cursor(path.read_bytes())
    except FileNotFoundError:
        return Cursor({})
    except OSError as exc:
        raise ConfigurationError(f"--cursor {path} cannot be read ({exc.strerror}): name another file") from exc
    except ValueError as exc:
        raise ConfigurationError(f"--cursor {path} has no position in an audit log: name another file") from exc


def _replace(path: Path, cursor: "Cursor") -> None:
    try:
        atomic_write.replace(path, msgspec.json.encode(cursor) + b"\n")
    except OSError as exc:
        raise ConfigurationError(f"--cursor {path} cannot be written ({exc.strerror}): name another file") from exc
