"""Notes of the audit log's newest seal, on the tokens and in a file elsewhere, which restoring the disk cannot undo.

The home's note names the newest seal; each node has one of its own, since each has a log of its own. A former home has
a note that the installation has left it, which contradicts a database from before the migration, on whichever node.
Only a note whose MAC is verified counts.
"""

import hmac
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from hsmkms.errors import HsmKmsError, ObjectLostError, StoreError, TokenUnavailableError, UnsupportedOperationException
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.process import exclusive
from hsmkms.rules.audit import seal as audit_seal
from hsmkms.rules.audit.record import encode
from hsmkms.rules.audit.seal import Note, SealedLine
from hsmkms.service.keys.installation_keys import versions
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import audit_files
from hsmkms.store.installation import InstallationKeyRow, TokenRow

log = logging.getLogger("hsmkms.service")

_LOCK_SECONDS: Final = 5.0
_FIRST: Final = "1"
"""The name of the note of the first seal, which a new installation makes."""

_NODE_DIGITS: Final = 8
"""Digits of a node's id in the labels of its notes."""

_NOTED: Final = "noted.json"
"""The file that records the newest seal whose note was written to each token, by the token's id."""

_READABLE_AGAIN: Final = (
    "correct it, or remove it if the tokens are the newest ones; until then an older copy of one cannot be detected"
)


class _StoredNote(NamedTuple):
    """A note as it is on a token."""

    note: Note
    label: str
    text: bytes


class SealNotes:
    """Reads and writes the notes of an open installation. Writers hold the seal lock."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._folder = core.audit.folder
        self._prefix = f"hsmkms/{core.installation.short_id}/{KeyPurpose.AUDIT_SEAL}/"
        self._node_id = core.audit.node_id
        self._own_prefix = f"{self._prefix}{self._node_id[:_NODE_DIGITS]}/" if self._node_id else self._prefix
        self._newest_proven: dict[str, _StoredNote] = {}
        """The newest note of each token by its id, as it was read and verified last."""
        self._reported = False

    # -- reading ------------------------------------------------------------------------------------------------------

    def every(self) -> list[Note]:
        """Return the verified notes on all tokens and in the file elsewhere, skipping former homes that are away."""
        core, notes = self._core, list[Note]()
        for row in core.tokens.rows():
            try:
                notes += self.on(row.id)
            except TokenUnavailableError:
                if row.id == core.tokens.home_id:
                    raise
        return notes + self._proven(self._lines_elsewhere())

    def on(self, token_id: str) -> list[Note]:
        """Return the verified notes on a token."""
        return self._proven(each.note for each in self._read_on(token_id))

    def newest(self) -> Note | None:
        """Return the verified note of this log's newest seal, or None."""
        return self.newest_of(self.every())

    def newest_of(self, notes: Iterable[Note]) -> Note | None:
        """Return the note of this log's newest seal: what another node left on a former home names its own seal."""
        return audit_seal.newest(each for each in notes if not each.token or each.node == self._node_id)

    def newest_of_node(self, node_id: str) -> Note | None:
        """Return the verified note of another node's newest seal, or None."""
        notes = self._every_on(self._core.tokens.home_id)
        return audit_seal.newest(self._proven(each for each in notes if each.node == node_id and not each.token))

    def of_any_node(self) -> bool:
        """Return True if the home, or the file elsewhere, has a verified note of any node's seal."""
        return bool(self._proven(self._every_on(self._core.tokens.home_id)) or self._proven(self._lines_elsewhere()))

    def remembers(self) -> bool:
        """Return True if the home, or the file elsewhere, has a note of any seal, verified or not."""
        return bool(self._read_on(self._core.tokens.home_id) or self._lines_elsewhere())

    def older(self, token_id: str, noted: int) -> str | None:
        """Return how a token proves to be an older copy, if the note of seal ``noted`` was written to it; or None."""
        if not noted or self._still_holds(token_id, noted):
            return None
        notes = self._read_on(token_id)
        try:
            proven = self._proven(each.note for each in notes)
        except ObjectLostError:  # the verification of the log reports what cannot be verified
            return None
        if token_id != self._core.tokens.home_id and any(each.token for each in proven):
            return None  # a former home, on which nothing has been created since its note
        newest_note = self.newest_of(proven)
        newest = newest_note.number if newest_note is not None else 0
        if newest >= noted:
            self._newest_proven[token_id] = next(each for each in notes if each.note == newest_note)
            return None
        if newest_note is None and notes:  # a note that cannot be verified does not show how old the token is
            return None
        device = self._core.tokens.of(token_id)
        in_group = "wait until the HA group has brought this member up to date, or " if device.connection.member else ""
        return (
            f"the token {device.profile.label!r} is an older copy of itself: it remembers seal "
            f"{newest or 'none'} of the audit log, and the note of seal {noted} was written to it. Keys created since "
            f"then are not on it: {in_group}put the newer token, or a newer backup of it, back. If there is none, "
            "`hsmkms reconcile` shows what is lost, and `hsmkms accept-store` accepts the token as it is"
        )

    def _still_holds(self, token_id: str, noted: int) -> bool:
        """Return True if a note of seal ``noted`` or a newer one, verified before, is on the token now. One call."""
        known = self._newest_proven.get(token_id)
        if known is None or known.note.number < noted:
            return False
        own = self._core.tokens.of(token_id).own
        return own.holds_note(own_permit(OperatorAct.SEAL), known.label, known.text)

    def older_home(self) -> str | None:
        """Return how the home proves to be an older copy of itself, or None."""
        home_id = self._core.tokens.home_id
        return self.older(home_id, noted_on(self._folder, home_id))

    def contradictions(self, notes: Iterable[Note], epoch: int) -> list[str]:
        """Return how a database at that epoch contradicts the notes on former homes."""
        return [each for each in (self.contradiction(note, epoch) for note in notes) if each is not None]

    def contradiction(self, note: Note, epoch: int) -> str | None:
        """Return how a database at that epoch contradicts a note, or None."""
        if not note.token:
            return None
        if note.token == self._core.tokens.home_id:
            return f"the database is older than the migration to {note.left_for}: its home is a token that was left"
        if epoch < note.epoch:
            return f"the database is older than the migration to {note.left_for}"
        return None

    def unmarked(self) -> list[TokenRow]:
        """Return the former homes without a note of that."""
        core, marked = self._core, {each.token for each in self.every()}
        return [each for each in core.tokens.rows() if each.id not in marked and each.id != core.tokens.home_id]

    # -- leaving ------------------------------------------------------------------------------------------------------

    def remember(self, number: int, digest: str) -> None:
        """Write the note of a seal to the home."""
        note = Note(number=number, digest=digest, node=self._node_id)
        # Use the oldest key version there: a database restored from before a rotation must be able to verify it.
        known, home_id = versions(self._core, KeyPurpose.AUDIT_SEAL), self._core.tokens.home_id
        oldest = next((each for each in known if each.token_id == home_id), known[0])
        others = [each for each in self._lines_elsewhere() if each.token not in ("", home_id)]
        if self._keep(home_id, self._own_prefix, str(number), self._signed(note, oldest), others):
            _write_noted(self._folder, home_id, number)

    def leave(self, notes: Sequence[Note], last: SealedLine | None, epoch: int) -> None:
        """Write notes to all former homes that lack one in ``notes``: left for the home, at ``epoch``.

        None is written to an older copy: it would look like the token that it was copied from, and that token like an
        older copy.
        """
        core, marked = self._core, {each.token for each in notes}
        rows = {each.id: each for each in core.tokens.rows()}
        home = rows[core.tokens.home_id]
        for row in [each for each in rows.values() if each.id not in marked and each is not home]:
            note = Note(
                number=last.seal.number if last is not None else 0,
                digest=last.digest if last is not None else "",
                token=row.id,
                left_for=f"the token {home.label!r} (serial {home.serial})",
                epoch=epoch,
                node=self._node_id,
            )
            try:
                self._leave(note)
            except (ObjectLostError, TokenUnavailableError) as exc:
                log.warning("the former home %r has no note of the migration yet: %s", row.label, exc)

    def _leave(self, note: Note) -> None:
        older = self.older(note.token, noted_on(self._folder, note.token))
        if older is not None:
            raise TokenUnavailableError(older)
        # Use the installation's MAC key, which every database that had the token as its home knows.
        oldest = versions(self._core, KeyPurpose.MAC, note.token)[0]
        others = [each for each in self._lines_elsewhere() if each.token != note.token]
        # The name is not a seal's number, so this note does not count in the check for an older copy. It replaces the
        # notes of all nodes.
        self._keep(note.token, self._prefix, f"left-{note.epoch}", self._signed(note, oldest), others)

    def remove(self, token_id: str) -> None:
        """Remove the notes from a token that is about to be forgotten."""
        self._core.tokens.of(token_id).own.remove_notes(own_permit(OperatorAct.SEAL), self._prefix)
        elsewhere = self._elsewhere()
        lines = self._lines_elsewhere()
        if elsewhere is not None and lines:
            kept = [each for each in lines if each.token != token_id]
            audit_files.replace(elsewhere, b"\n".join(map(encode, kept)))

    def _keep(self, token_id: str, prefix: str, name: str, note: Note, others: list[Note]) -> bool:
        """Replace the notes with that prefix on a token, and write the note with the others to the file elsewhere.

        False if the token has no data objects.
        """
        elsewhere = self._elsewhere()
        if elsewhere is not None:
            audit_files.replace(elsewhere, b"\n".join(map(encode, (note, *others))))
        try:
            permit, device = own_permit(OperatorAct.SEAL), self._core.tokens.of(token_id)
            device.own.replace_note(permit, prefix, f"{prefix}{name}", encode(note))
        except UnsupportedOperationException as exc:
            if elsewhere is None and not self._reported:
                # A server's log has INFO; commands print warnings only. `hsmkms doctor` warns whenever it is asked.
                level = logging.INFO if name.isdecimal() and name != _FIRST else logging.WARNING
                log.log(level, "the newest seal of the audit log is kept only beside the log: %s", exc)
                self._reported = True
            return False
        return True

    def _signed(self, note: Note, key: InstallationKeyRow) -> Note:
        return replace(note, mac=seal_mac(self._core, key, audit_seal.note_message(note)).hex())

    # -- where they are -----------------------------------------------------------------------------------------------

    def _read_on(self, token_id: str) -> list[_StoredNote]:
        """Read the notes on a token that concern this node, not verified."""
        texts = self._texts(token_id)
        read = [(audit_seal.read_note(text), label, text) for label, text in texts.items()]
        return [
            _StoredNote(note, label, text) for note, label, text in read if note is not None and self._concerns(note)
        ]

    def _every_on(self, token_id: str) -> list[Note]:
        """Read the notes of all nodes on a token, not verified."""
        read = map(audit_seal.read_note, self._texts(token_id).values())
        return [note for note in read if note is not None]

    def _texts(self, token_id: str) -> dict[str, bytes]:
        return self._core.tokens.of(token_id).own.notes(own_permit(OperatorAct.SEAL), self._prefix)

    def _concerns(self, note: Note) -> bool:
        """Return True for a note of this node's seals, and for one of a migration, whichever node has left the token.

        A note without a node is of this log if its newest seal was made before it had one, in files or by SQLite.
        """
        if note.token or note.node == self._node_id:
            return True
        return not note.node and self._sealed_without_node()

    def _sealed_without_node(self) -> bool:
        path = self._folder / audit_files.SEALS
        last = audit_seal.read(audit_files.last_line(path)) if path.exists() else None
        return last is not None and last.seal.node is UNSET

    def _lines_elsewhere(self) -> list[Note]:
        """Read the notes in the file elsewhere, one per line, not verified."""
        path = self._elsewhere()
        try:
            lines = path.read_bytes().splitlines() if path is not None else []
        except FileNotFoundError:  # nothing was sealed yet
            lines = []
        except OSError as exc:
            raise StoreError(
                f"audit.seal_file {path} cannot be read ({exc.strerror}): let it name a file that hsmkms can read and "
                "replace, or correct its mode"
            ) from exc
        return [note for note in map(audit_seal.read_note, lines) if note is not None]

    def _elsewhere(self) -> Path | None:
        named = self._core.audit.policy.seal_file
        return Path(named) if named is not None else None

    def _proven(self, notes: Iterable[Note]) -> list[Note]:
        return [each for each in notes if self._proves(each)]

    def _proves(self, note: Note) -> bool:
        """Return True if the note's MAC verifies; False also if only a former home that is away could verify it."""
        message, core = audit_seal.note_message(note), self._core
        lost: HsmKmsError | None = None
        for each in versions(core, KeyPurpose.MAC, note.token) if note.token else versions(core, KeyPurpose.AUDIT_SEAL):
            try:
                if hmac.compare_digest(seal_mac(core, each, message).hex(), note.mac):
                    return True
            except (ObjectLostError, TokenUnavailableError) as exc:
                lost = exc if each.token_id == core.tokens.home_id_so_far else lost
        if lost is not None:
            raise lost
        return False


def seal_mac(core: Core, key: InstallationKeyRow, message: bytes) -> bytes:
    """Compute an HMAC by an installation key; ObjectLostError if the token does not hold it under its own label."""
    device = core.tokens.of(key.token_id)
    if not device.keys.is_labelled(key.cka_id, key.label(core.installation.id)):
        # The row was forged, with the CKA_ID of a key whose HMACs users can request.
        raise ObjectLostError("the token does not hold the key that seals the audit log")
    return device.own.mac(own_permit(OperatorAct.SEAL, key.cka_id), key.cka_id, message)


def noted_on(folder: Path, token_id: str) -> int:
    """Return the number of the newest seal whose note was written to that token; 0 if unknown."""
    return _noted(folder).get(token_id, 0)


def forget_noted(folder: Path, token_id: str) -> None:
    """Forget which notes were written to a token: it was replaced, or the operator accepts it as it is."""
    if token_id in _noted(folder):
        with exclusive(folder / audit_files.SEAL_LOCK, _LOCK_SECONDS):
            noted = {each: number for each, number in _noted(folder).items() if each != token_id}
            audit_files.replace(folder / _NOTED, encode(noted))


def _noted(folder: Path) -> dict[str, int]:
    """Read the file. StoreError if it exists and cannot be read: an older copy would otherwise go undetected."""
    path = folder / _NOTED
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except FileNotFoundError:  # nothing was sealed yet, or the database was restored
        return {}
    except OSError as exc:
        raise StoreError(f"{path} cannot be read ({exc.strerror}): {_READABLE_AGAIN}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise StoreError(f"{path} is not as hsmkms wrote it: {_READABLE_AGAIN}") from exc


def _write_noted(folder: Path, token_id: str, number: int) -> None:
    audit_files.replace(folder / _NOTED, encode(_noted(folder) | {token_id: number}))
