"""Notes of the audit log's newest seal, on the tokens and in a file elsewhere: no copy of the disk brings them back.

The home's note names the newest seal. A token that the installation has left keeps a note of that, so that a database
from before the migration contradicts it. Only a note that is proven counts.
"""

import hmac
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
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
_NOTED: Final = "noted.json"
"""The file that remembers the newest seal whose note each token has taken, by the token's id."""

_READABLE_AGAIN: Final = (
    "mend it, or remove it if the tokens are the newest ones; until then nobody knows whether one is an older copy"
)


class SealNotes:
    """Reads and leaves the notes of an open installation. Who leaves one holds the lock of the seals."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._folder = core.audit.folder
        self._prefix = f"hsmkms/{core.installation.short_id}/{KeyPurpose.AUDIT_SEAL}/"

    # -- reading ------------------------------------------------------------------------------------------------------

    def every(self) -> list[Note]:
        """The proven notes on all tokens and in the file elsewhere; none of a token that was left and is away."""
        core, found = self._core, list[Note]()
        for row in core.tokens.rows():
            try:
                found += self.on(row.id)
            except TokenUnavailableError:
                if row.id == core.tokens.home_id:
                    raise
        return found + self._proven(self._lines_elsewhere())

    def on(self, token_id: str) -> list[Note]:
        """The proven notes on a token."""
        return self._proven(self._read_on(token_id))

    def newest(self) -> Note | None:
        """The newest of all."""
        return audit_seal.newest(self.every())

    def remembers(self) -> bool:
        """True if the home, or the file elsewhere, has a note of any seal, proven or not."""
        return bool(self._read_on(self._core.tokens.home_id) or self._lines_elsewhere())

    def older(self, token_id: str, noted: int) -> str | None:
        """How a token shows that it is an older copy of itself, if it has taken the note of seal ``noted``; or None."""
        if not noted:
            return None
        notes = self._read_on(token_id)
        try:
            proven = self._proven(notes)
        except ObjectLostError:  # what cannot be proven is told by the verification of the log
            return None
        if token_id != self._core.tokens.home_id and any(each.token for each in proven):
            return None  # it knows that it was left, and nothing has been made on it since
        found = audit_seal.newest(proven)
        newest = found.number if found is not None else 0
        # A note that cannot be proven says nothing of how old the token is.
        if newest >= noted or (found is None and notes):
            return None
        return (
            f"the token {self._core.tokens.of(token_id).profile.label!r} is an older copy of itself: it remembers seal "
            f"{newest or 'none'} of the audit log, and has taken the note of seal {noted}. What was made since then is "
            "not on it: put the newer token, or a newer backup of it, back. If there is none, `hsmkms reconcile` shows "
            "what is lost, and `hsmkms accept-store` takes the token as it is"
        )

    def older_home(self) -> str | None:
        """How the home shows that it is an older copy of itself, or None."""
        home_id = self._core.tokens.home_id
        return self.older(home_id, noted_on(self._folder, home_id))

    def contradictions(self, notes: Iterable[Note], epoch: int) -> list[str]:
        """How a database at that epoch contradicts the notes on tokens that were left."""
        return [each for each in (self.contradiction(note, epoch) for note in notes) if each is not None]

    def contradiction(self, note: Note, epoch: int) -> str | None:
        """How a database at that epoch is older than what a note says, or None."""
        if not note.token:
            return None
        if note.token == self._core.tokens.home_id:
            return f"the database is older than the migration to {note.left_for}: its home is a token that was left"
        if epoch < note.epoch:
            return f"the database is older than the migration to {note.left_for}"
        return None

    def unmarked(self) -> list[TokenRow]:
        """The tokens that were left and have no note of it."""
        core, marked = self._core, {each.token for each in self.every()}
        return [each for each in core.tokens.rows() if each.id not in marked and each.id != core.tokens.home_id]

    # -- leaving ------------------------------------------------------------------------------------------------------

    def remember(self, number: int, digest: str) -> None:
        """Leave the note of a seal on the home."""
        note = Note(number=number, digest=digest)
        # By the oldest version there: a database that was restored from before a rotation must be able to prove it.
        known, home_id = versions(self._core, KeyPurpose.AUDIT_SEAL), self._core.tokens.home_id
        oldest = next((each for each in known if each.token_id == home_id), known[0])
        others = [each for each in self._lines_elsewhere() if each.token not in ("", home_id)]
        if self._keep(home_id, str(number), self._signed(note, oldest), others):
            _write_noted(self._folder, home_id, number)

    def leave(self, notes: Sequence[Note], last: SealedLine | None, epoch: int) -> None:
        """Leave notes on all tokens but the home, unless one of ``notes`` is there: left for the home, at ``epoch``.

        None on an older copy: it would look like the token that it was copied from, and that one like its older copy.
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
            )
            try:
                self._leave(note)
            except (ObjectLostError, TokenUnavailableError) as exc:
                log.warning("the token %r, which was left, does not know of it yet: %s", row.label, exc)

    def _leave(self, note: Note) -> None:
        older = self.older(note.token, noted_on(self._folder, note.token))
        if older is not None:
            raise TokenUnavailableError(older)
        # By the installation's MAC key, which every database knows that ever had the token as its home.
        oldest = versions(self._core, KeyPurpose.MAC, note.token)[0]
        others = [each for each in self._lines_elsewhere() if each.token != note.token]
        # The number is that of no note that the token had before: it says nothing of how old a copy of it is.
        self._keep(note.token, f"left-{note.epoch}", self._signed(note, oldest), others)

    def remove(self, token_id: str) -> None:
        """Take the notes off a token that is about to be forgotten."""
        self._core.tokens.of(token_id).own.remove_notes(own_permit(OperatorAct.SEAL), self._prefix)
        elsewhere = self._elsewhere()
        lines = self._lines_elsewhere()
        if elsewhere is not None and lines:
            kept = [each for each in lines if each.token != token_id]
            audit_files.replace(elsewhere, b"\n".join(map(encode, kept)))

    def _keep(self, token_id: str, name: str, note: Note, others: list[Note]) -> bool:
        """Put a note on a token in the place of the one there, and with the others into the file elsewhere.

        False if the token keeps no notes.
        """
        elsewhere = self._elsewhere()
        if elsewhere is not None:
            audit_files.replace(elsewhere, b"\n".join(map(encode, (note, *others))))
        try:
            permit, device = own_permit(OperatorAct.SEAL), self._core.tokens.of(token_id)
            device.own.replace_note(permit, self._prefix, f"{self._prefix}{name}", encode(note))
        except UnsupportedOperationException as exc:
            if elsewhere is None:
                log.warning("the newest seal of the audit log is kept beside the log alone: %s", exc)
            return False
        return True

    def _signed(self, note: Note, key: InstallationKeyRow) -> Note:
        return replace(note, mac=seal_mac(self._core, key, audit_seal.note_message(note)).hex())

    # -- where they are -----------------------------------------------------------------------------------------------

    def _read_on(self, token_id: str) -> list[Note]:
        texts = self._core.tokens.of(token_id).own.notes(own_permit(OperatorAct.SEAL), self._prefix).values()
        return [note for note in map(audit_seal.read_note, texts) if note is not None]

    def _lines_elsewhere(self) -> list[Note]:
        """The notes in the file elsewhere, one a line, unproven."""
        path = self._elsewhere()
        try:
            lines = path.read_bytes().splitlines() if path is not None else []
        except FileNotFoundError:  # nothing was sealed yet
            lines = []
        except OSError as exc:
            raise StoreError(
                f"audit.seal_file {path} cannot be read ({exc.strerror}): let it name a file that hsmkms can read and "
                "replace, or mend its mode"
            ) from exc
        return [note for note in map(audit_seal.read_note, lines) if note is not None]

    def _elsewhere(self) -> Path | None:
        named = self._core.audit.policy.seal_file
        return Path(named) if named is not None else None

    def _proven(self, notes: Iterable[Note]) -> list[Note]:
        return [each for each in notes if self._proves(each)]

    def _proves(self, note: Note) -> bool:
        """True if the token of a note made it; also False where only a token that was left, and is away, may have."""
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
    """HMAC by an installation key; ObjectLostError if the token does not hold it under its own label."""
    device = core.tokens.of(key.token_id)
    if not device.keys.is_labelled(key.cka_id, key.label(core.installation.id)):
        # The row was put there by hand, with the id of a key whose HMACs its users can have.
        raise ObjectLostError("the token does not hold the key that seals the audit log")
    return device.own.mac(own_permit(OperatorAct.SEAL, key.cka_id), key.cka_id, message)


def noted_on(folder: Path, token_id: str) -> int:
    """The number of the newest seal whose note that token has taken; 0 if that is not known."""
    return _noted(folder).get(token_id, 0)


def forget_noted(folder: Path, token_id: str) -> None:
    """Forget which notes a token has taken: it is another one now, or the operator takes it as it is."""
    if token_id in _noted(folder):
        with exclusive(folder / audit_files.SEAL_LOCK, _LOCK_SECONDS):
            noted = {each: number for each, number in _noted(folder).items() if each != token_id}
            audit_files.replace(folder / _NOTED, encode(noted))


def _noted(folder: Path) -> dict[str, int]:
    """Raises StoreError if the file is there and cannot be read: an older copy of a token would pass for the token."""
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
