"""Record refused PINs in the data folder: open marks, which block logins, and the list of refused sources.

Both name token, time and source, and hold nothing derived from the PIN: not even a hash or a length, from which a short
PIN could be guessed. So hsmkms cannot see whether a PIN differs from the refused one. While a mark is open, a PIN of
any source is sent only if a person confirms it; that a file was written, touched or replaced proves nothing.

A mark is closed by the next PIN that its token accepts; the refused source stays listed, so that a process that still
has that PIN in memory does not send it again.
Everything here runs under the lock of the login gate.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hsmkms import atomic_write
from hsmkms.errors import ConfigurationError, PinError
from hsmkms.secret import PinOrigin, Secret

_MARK: Final = "pin-refused"
_LIST: Final = "pin-refusals.json"
"""Does not match the glob of the marks."""

_MOST_LISTED: Final = 64
_UNKNOWN: Final = "?"


class UnknownPinError(PinError):
    """The PIN may be the one that was refused; only a person can know, and has not confirmed it.

    ``question``: the question to ask, without its question mark.
    """

    def __init__(self, sentence: str, question: str) -> None:
        super().__init__(sentence)
        self.question = question


class PinMark(Struct, frozen=True, kw_only=True):
    """A refused PIN: by which token, when, and where the PIN came from (empty if unknown).

    ``unsettled``: the token has accepted no PIN since. ``members``: the serials of its HA group, which has one PIN.
    ``alone``: the refusal counts for this token only, since another member of the group has accepted the same PIN.
    ``node``: the other node of the installation that had it refused, or that changed the PIN (``changed``).
    ``published``: the other nodes know of it.
    """

    label: str
    serial: str
    refused_at: str
    source: str = ""
    version: str = ""
    comparable: bool = False
    unsettled: bool = False
    members: tuple[str, ...] = ()
    alone: bool = False
    node: str = ""
    changed: bool = False
    published: bool = False

    @property
    def of_another_node(self) -> str:
        """What happened on another node, and what follows for this one."""
        token = f"the token {self.label!r} (serial {self.serial})"
        if self.changed:
            return f"node {self.node} changed the PIN of {token} at {self.refused_at}, so that of this node is not sent"
        return f"{token} refused the PIN of node {self.node} at {self.refused_at}, so that of this node is not sent"

    def counts_for(self, serials: frozenset[str]) -> bool:
        """True if the PIN was refused by one of these tokens, or by a member of the same HA group."""
        return not serials.isdisjoint((self.serial, *self.members))

    def is_of(self, origin: PinOrigin | None) -> bool:
        """True if the PIN was read from exactly this source."""
        return origin is not None and (self.source, self.version) == (origin.name, origin.version)

    def may_be_of(self, origin: PinOrigin | None) -> bool:
        """True unless the refused PIN was read from another source; a change of the same file proves nothing."""
        return origin is None or self.source in ("", origin.name)


class SharedMarks(Protocol):
    """Marks that the nodes of an installation share. Nothing raises while their database is away."""

    def pending(self) -> list[PinMark]:
        """Return marks of other nodes for this one, until a token has accepted its PIN."""

    def publish(self, mark: PinMark) -> bool:
        """Leave a mark for all nodes; False if that was not possible now."""

    def settle(self, serials: frozenset[str]) -> None:
        """Remove the marks for this node of tokens of which one has accepted a PIN."""


class PinMarks:
    """Marks of one installation, files in ``folder``: one for each token that refused its PIN.

    ``members``: the serials of the HA group whose token is used; a refusal by one member counts for all of them, unless
    it is a ``standby``: then the member in use has accepted the PIN. ``shared``: marks of other nodes.
    """

    def __init__(
        self,
        folder: Path,
        members: tuple[str, ...] = (),
        *,
        standby: bool = False,
        shared: SharedMarks | None = None,
    ) -> None:
        self._shared = shared
        self._folder = folder
        self._members = members
        self._standby = standby

    def exchange(self) -> None:
        """Write the marks of other nodes to the folder, and publish those that they do not know of."""
        if self._shared is None:
            return
        marked = {path: _read_mark(path) for path in self._paths()}
        for path, mark in marked.items():
            if not mark.published and mark.serial != _UNKNOWN:
                self._publish(path, mark)
        known = {each.serial for each in marked.values()}
        for mark in self._shared.pending():
            if mark.serial not in {*known, _UNKNOWN}:  # written by hand: that of a file that cannot be read
                self._write(self._path_of(mark.serial), mark)

    def note_change(self, label: str, serial: str) -> None:
        """Let the other nodes know that the PIN of a token was changed."""
        if self._shared is not None:
            at = datetime.now(UTC).isoformat(timespec="seconds")
            self._shared.publish(PinMark(label=label, serial=serial, refused_at=at, changed=True))

    def _publish(self, path: Path, mark: PinMark) -> None:
        if self._shared is not None and self._shared.publish(mark):
            self._write(path, replace(mark, published=True))

    def _write(self, path: Path, mark: PinMark) -> None:
        try:
            atomic_write.replace(path, msgspec.json.encode(mark))
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc

    def open_mark(self, serial: str | None = None) -> PinMark | None:
        """Return the mark of the token of that serial, or of any; an unreadable mark counts for all tokens."""
        marks = map(_read_mark, self._paths())
        if serial is None:
            return next(marks, None)
        return next((each for each in marks if each.serial == _UNKNOWN or self._counts(each, serial)), None)

    def refuse_if_refused(self, serial: str, pin: Secret) -> None:
        """Raise PinError if the token may have refused this PIN, unless a person confirmed that it be sent."""
        if pin.insisted:
            return
        mark = self.open_mark(serial)
        if mark is not None and not (pin.origin is not None and pin.origin.typed):
            raise _not_sent(mark, pin.origin)
        listed = self._listed_of(serial, pin.origin)
        if listed is not None:
            raise _not_sent(listed, pin.origin)

    def knows(self, serial: str, pin: Secret) -> bool:
        """True if a PIN from the same source was refused by the token."""
        mark = self.open_mark(serial)
        refused = mark is not None and mark.may_be_of(pin.origin)
        return refused or self._listed_of(serial, pin.origin) is not None

    @contextmanager
    def at_hand(self, label: str, serial: str, origin: PinOrigin | None) -> Iterator[Callable[[], None]]:
        """Prepare the mark on disk while a PIN is tried; the yielded function puts it in place.

        If the mark could not be written after the refusal, the next process would try again. ConfigurationError
        if it cannot be prepared: then no PIN is tried.
        """
        mark = PinMark(
            label=label,
            serial=serial,
            refused_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source=origin.name if origin is not None else "",
            version=origin.version if origin is not None else "",
            comparable=origin is not None and origin.comparable,
            unsettled=True,
            members=self._members if serial in self._members else (),
            alone=self._standby,
        )
        path = self._path_of(serial)
        with ExitStack() as exits:
            try:
                put_in_place = exits.enter_context(atomic_write.draft(path, msgspec.json.encode(mark)))
            except OSError as exc:
                raise ConfigurationError(
                    f"no PIN is tried, since {path} cannot be written ({exc.strerror}): make its folder writable"
                ) from exc

            def leave() -> None:
                earlier = _read_mark(path) if path.exists() else None
                put_in_place()
                if earlier is not None:
                    self._write_list([*self._list(), earlier])
                self._publish(path, mark)

            yield leave

    def settle(self, serial: str, origin: PinOrigin | None) -> None:
        """Close the mark of the token and its group, since it accepted a PIN; the refused source stays listed.

        A PIN that another member has refused stays listed for that one, though this token has accepted the same PIN.
        """
        group = self._group(serial)
        closed = [path for path in self._paths() if self._counts(_read_mark(path), serial)]
        listed = self._list()
        refused = [*listed, *map(_read_mark, closed)]
        kept = [
            replace(each, unsettled=False, alone=each.alone or each.is_of(origin)) if each.counts_for(group) else each
            for each in refused
            if not each.counts_for(group) or not each.is_of(origin) or each.serial != serial
        ]
        if kept != listed:
            self._write_list(kept)
        for path in closed:
            path.unlink(missing_ok=True)
        if closed and self._shared is not None:  # a mark of another node was written here before the PIN was sent
            self._shared.settle(group)

    def remove_unreadable(self) -> None:
        """Remove the unreadable marks, once every token has accepted its PIN."""
        for path in self._paths():
            if _read_mark(path).serial == _UNKNOWN:
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_MARK}*.json"))

    def _path_of(self, serial: str) -> Path:
        """Return the path of a token's mark: each token has its own file."""
        usual = self._folder / f"{_MARK}.json"
        if not usual.exists() or _read_mark(usual).serial == serial:
            return usual
        return usual.with_name(f"{_MARK}-{hashlib.sha256(serial.encode()).hexdigest()[:16]}.json")

    def _listed_of(self, serial: str, origin: PinOrigin | None) -> PinMark | None:
        """Return a listed refusal of this source: of any version until the token accepts a PIN, then of this one."""
        known = [each for each in self._list() if self._counts(each, serial)]
        return next((each for each in known if each.is_of(origin) or (each.unsettled and each.may_be_of(origin))), None)

    def _counts(self, mark: PinMark, serial: str) -> bool:
        """Return True if a refusal counts for the token of that serial."""
        return mark.serial == serial if mark.alone else mark.counts_for(self._group(serial))

    def _group(self, serial: str) -> frozenset[str]:
        """Return the serials whose refusals count for a token: those of its HA group, or its own."""
        return frozenset(self._members if serial in self._members else (serial,))

    def _list(self) -> list[PinMark]:
        try:
            return msgspec.json.decode((self._folder / _LIST).read_bytes(), type=list[PinMark])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as exc:
            raise ConfigurationError(f"{self._folder / _LIST} cannot be read: remove it") from exc

    def _write_list(self, refused: list[PinMark]) -> None:
        path = self._folder / _LIST
        try:
            atomic_write.replace(path, msgspec.json.encode(refused[-_MOST_LISTED:]))
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc


def _not_sent(mark: PinMark, origin: PinOrigin | None) -> PinError:
    if mark.node:
        return UnknownPinError(
            f"{mark.of_another_node}. If the PIN here is the right one, run `hsmkms doctor --retry-pin --yes`",
            f"{mark.of_another_node}. Is the PIN of this node the right one",
        )
    by = f"the token {mark.label!r} (serial {mark.serial})"
    if origin is not None and origin.comparable and mark.is_of(origin):
        return PinError(
            f"{origin.name} has not changed since {by} refused it at {mark.refused_at}, so its PIN is not sent again: "
            "correct it and run `hsmkms doctor --retry-pin`, or add --yes if the PIN was right"
        )
    name = origin.name if origin is not None and origin.name else "the source of the PIN"
    source = f" of {mark.source}" if mark.source else ""
    return UnknownPinError(
        f"{name} may still give the PIN that was refused: {by} refused that{source} at {mark.refused_at}, and hsmkms "
        "keeps nothing of it to compare with. If it is another PIN now, run `hsmkms doctor --retry-pin --yes`",
        f"{by[:1].upper()}{by[1:]} refused the PIN{source} at {mark.refused_at}, and locks after a few wrong ones. Is "
        f"the PIN that comes from {name} another one, and right",
    )


def _read_mark(path: Path) -> PinMark:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PinMark)
    except (OSError, msgspec.DecodeError):
        return PinMark(label=_UNKNOWN, serial=_UNKNOWN, refused_at="an unknown time")
