"""What refused PINs leave in the data folder: open marks, which block logins, and the list of refused sources.

Both name token, time and source, and say nothing of the PIN. A mark is closed by the next PIN that its token takes;
the source that was refused stays listed, so that a process that still holds that PIN does not send it again.
Everything here runs under the lock of the login gate.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms.errors import ConfigurationError, PinError
from hsmkms.secret import PinOrigin, Secret

_MARK: Final = "pin-refused"
_LIST: Final = "pin-refusals.json"
"""Does not match the glob of the marks."""

_MOST_LISTED: Final = 64
_UNKNOWN: Final = "?"


class PinMark(Struct, frozen=True, kw_only=True):
    """A refused PIN: by which token, when, and where the PIN came from (empty if unknown)."""

    label: str
    serial: str
    refused_at: str
    source: str = ""
    version: str = ""
    comparable: bool = False

    def is_of(self, origin: PinOrigin) -> bool:
        """True if the PIN was read from exactly this source."""
        return (self.source, self.version) == (origin.name, origin.version)

    def may_be_of(self, origin: PinOrigin | None) -> bool:
        """True unless what was refused was certainly read from another source, or before the source was changed."""
        if origin is None or not self.source:
            return True
        if self.source != origin.name:
            return False
        return not (self.comparable and origin.comparable and self.version != origin.version)


class PinMarks:
    """The marks of one installation, as files in ``folder``: one for each token that refused its PIN."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_mark(self, serial: str | None = None) -> PinMark | None:
        """The mark of the token of that serial, or of any; an unreadable one counts for all."""
        marks = map(_read_mark, self._paths())
        return next((each for each in marks if serial is None or each.serial in (serial, _UNKNOWN)), None)

    def refuse_if_refused(self, serial: str, pin: Secret) -> None:
        """Raise PinError if the token has refused this PIN, or may have: unless a person insists on it."""
        if pin.insisted:
            return
        mark = self.open_mark(serial)
        if mark is not None and mark.may_be_of(pin.origin):
            raise PinError(_unchanged(mark, pin.origin))
        listed = self._listed_of(serial, pin.origin)
        if listed is not None:
            raise PinError(_unchanged(listed, pin.origin))

    def knows(self, serial: str, pin: Secret) -> bool:
        """True if the token has refused this PIN, or may have."""
        try:
            self.refuse_if_refused(serial, pin)
        except PinError:
            return True
        return False

    @contextmanager
    def at_hand(self, label: str, serial: str, origin: PinOrigin | None) -> Iterator[Callable[[], None]]:
        """Have the mark ready on the disk while a PIN is tried; the function that is lent puts it in its place.

        A mark that could not be written after the refusal would let the next process try again. ConfigurationError
        if it cannot be prepared: then no PIN is tried.
        """
        mark = PinMark(
            label=label,
            serial=serial,
            refused_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source=origin.name if origin is not None else "",
            version=origin.version if origin is not None else "",
            comparable=origin is not None and origin.comparable,
        )
        path = self._path_of(serial)
        prepared = path.with_suffix(".prepared")
        try:
            _write_durably(prepared, msgspec.to_builtins(mark))
        except OSError as exc:
            raise ConfigurationError(
                f"no PIN is tried, since {prepared} cannot be written ({exc.strerror}): make its folder writable"
            ) from exc

        def leave() -> None:
            earlier = _read_mark(path) if path.exists() else None
            prepared.replace(path)
            if earlier is not None:
                self._write_list([*self._list(), earlier])

        try:
            yield leave
        finally:
            prepared.unlink(missing_ok=True)

    def settle(self, serial: str, origin: PinOrigin | None) -> None:
        """The token has taken a PIN of that origin: close its mark, and keep the source that was refused listed."""
        closed = [path for path in self._paths() if _read_mark(path).serial == serial]
        listed = self._list()
        refused = [*listed, *map(_read_mark, closed)]
        kept = [each for each in refused if each.serial != serial or origin is None or not each.is_of(origin)]
        if kept != listed:
            self._write_list(kept)
        for path in closed:
            path.unlink(missing_ok=True)

    def remove_unreadable(self) -> None:
        """Remove the marks that name no token, once every token has taken its PIN."""
        for path in self._paths():
            if _read_mark(path).serial == _UNKNOWN:
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_MARK}*.json"))

    def _path_of(self, serial: str) -> Path:
        """Where the mark of a token is, or will be: each token has its own."""
        usual = self._folder / f"{_MARK}.json"
        if not usual.exists() or _read_mark(usual).serial == serial:
            return usual
        return usual.with_name(f"{_MARK}-{hashlib.sha256(serial.encode()).hexdigest()[:16]}.json")

    def _listed_of(self, serial: str, origin: PinOrigin | None) -> PinMark | None:
        if origin is None:
            return None
        return next((each for each in self._list() if each.serial == serial and each.is_of(origin)), None)

    def _list(self) -> list[PinMark]:
        try:
            return msgspec.json.decode((self._folder / _LIST).read_bytes(), type=list[PinMark])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as exc:
            raise ConfigurationError(f"{self._folder / _LIST} cannot be read: remove it") from exc

    def _write_list(self, refused: list[PinMark]) -> None:
        path = self._folder / _LIST
        new = path.with_suffix(".new")
        try:
            _write_durably(new, msgspec.to_builtins(refused[-_MOST_LISTED:]))
            new.replace(path)
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc


def _unchanged(mark: PinMark, origin: PinOrigin | None) -> str:
    refused = f"the token {mark.label!r} (serial {mark.serial}) refused it at {mark.refused_at}"
    if origin is not None and origin.comparable and mark.is_of(origin):
        return (
            f"{origin.name} has not changed since {refused}, so its PIN is not sent again: correct it and run "
            "`hsmkms doctor --retry-pin`, or add --same-source if the PIN was right"
        )
    name = origin.name if origin is not None and origin.name else "the source of the PIN"
    return (
        f"{name} may still give the PIN that was refused: {refused}, and hsmkms cannot see whether it is another one "
        "now. If it is, run `hsmkms doctor --retry-pin --same-source`"
    )


def _read_mark(path: Path) -> PinMark:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PinMark)
    except (OSError, msgspec.DecodeError):
        return PinMark(label=_UNKNOWN, serial=_UNKNOWN, refused_at="an unknown time")


def _write_durably(path: Path, content: object) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
