"""Sealing the audit log: at intervals, and when a process that has written ends. One sealer at a time.

The newest seal is named by a note on the home, which no copy of the disk brings back. A token that the installation has
left keeps a note of that, so that a database from before, whose home it is, contradicts it; the notes of all tokens
count. Where what is there contradicts the newest seal or a note, nothing is sealed until the operator has looked: a new
seal must not hide what the old one says.
"""

import hmac
import logging
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from hsmkms.errors import (
    HsmKmsError,
    ObjectLostError,
    StoreError,
    TokenUnavailableError,
    UnsupportedOperationException,
)
from hsmkms.model.audit import Fault, Head, LaneSeal, Seal
from hsmkms.model.permit import OperatorAct
from hsmkms.process import exclusive
from hsmkms.rules import audit_chain, audit_seal
from hsmkms.rules.audit_record import encode
from hsmkms.rules.audit_seal import Note, SealedLine
from hsmkms.service.core import Core
from hsmkms.service.installation_keys import sealing_key, versions
from hsmkms.service.permits import own_permit
from hsmkms.store import audit_files, changes
from hsmkms.store.installation import MAC_PURPOSE, InstallationKeyRow, TokenRow

log = logging.getLogger("hsmkms.service")

PURPOSE: Final = "audit-seal"
_LOCK_SECONDS: Final = 60.0
_CONTRADICTED: Final = "{}: run `hsmkms audit verify`, and then `hsmkms accept-store` if there is a good reason for it"


class Contradiction(StoreError):
    """The log, or the database, is not what the newest seal says."""


class Sealer:
    """Seals the log of an open installation, and reads its seals."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.folder = core.audit.folder
        self._seals = self.folder / audit_files.SEALS
        self._newest: InstallationKeyRow | None = None

    def seal(self, unless_within: timedelta = timedelta()) -> bool:
        """Make a seal if there is anything new. False if not, or if the log contradicts the newest seal (an alarm).

        ``unless_within``: nor if somebody else has made one so lately. SoftHSM sometimes fails a call
        (CKR_GENERAL_ERROR) in the instant in which another process destroys an object: no more notes than are needed.
        """
        try:
            with self._alone():
                made = self._seal(unless_within)
        except Contradiction as exc:
            self._core.audit.alarm = str(exc)
            log.error("%s", exc)  # noqa: TRY400 - told in one sentence
            return False
        self._core.audit.alarm = None
        return made

    def check(self) -> None:
        """Raise Contradiction if what is there is not a continuation of what was sealed."""
        self._check(self.last(), self.notes(), self._heads())

    def unproven_contradiction(self) -> str | None:
        """How what is there contradicts the newest seal, whether or not that can be proven, or None."""
        try:
            self._check(self.last(), self.notes(), self._heads(), prove=False)
        except Contradiction as exc:
            return str(exc)
        return None

    def check_home(self) -> None:
        """Raise Contradiction if the home is a token that the installation has left. Quick: its notes are read."""
        self._check_left(self._notes_on(self._core.tokens.home_id), self._epoch())

    def accept(self, faults: tuple[Fault, ...]) -> Seal:
        """Seal what is there now, with the faults that the operator has seen; from here on it counts as right."""
        with self._alone():
            last, note = self.last(), self.note()
            newest = max(last.seal.number if last else 0, note.number if note else 0)
            seal = self._draft(last, newest, self._heads())
            seal = replace(seal, accepted=faults, restored=True)
            self._write(seal)
            epoch = self._epoch()  # what was left at a later one was left in the state that was given up
            self._leave([each for each in self.notes() if self._contradicts(each, epoch) is None])
        self._core.audit.alarm = None
        return seal

    def move_start(self, starts: dict[str, Head]) -> None:
        """Seal that what was archived ends there."""
        with self._alone():
            last, notes = self.last(), self.notes()
            heads = self._heads()
            self._check(last, notes, heads)
            seal = self._draft(last, last.seal.number if last else 0, heads)
            lanes = {
                lane: LaneSeal(head=each.head, start=starts.get(lane, each.start)) for lane, each in seal.lanes.items()
            }
            self._write(replace(seal, lanes=lanes))

    def last(self) -> SealedLine | None:
        """The newest seal in the file, unproven."""
        text = audit_files.last_line(self._seals) if self._seals.exists() else b""
        found = audit_seal.read(text) if text else None
        if text and found is None:
            raise Contradiction(_CONTRADICTED.format("the last line of the audit log's seals is no seal"))
        return found

    def note(self) -> Note | None:
        """The newest of the notes."""
        return audit_seal.newest(self.notes())

    def notes(self) -> list[Note]:
        """What the tokens, and the file elsewhere, remember of the newest seal; only what is proven counts.

        Nothing of a token that was left and is away.
        """
        core, found = self._core, list[Note]()
        for row in core.tokens.rows():
            try:
                found += self._notes_on(row.id)
            except TokenUnavailableError:
                if row.id == core.tokens.home_id:
                    raise
        return found + self._proven(self._lines_elsewhere())

    def leave(self) -> list[TokenRow]:
        """Leave a note on every token that is not the home any more; those that still lack one, as they are away."""
        with self._alone():
            self._leave(self.notes())
        return self.unmarked()

    def unmarked(self) -> list[TokenRow]:
        """The tokens that were left and have no note of it."""
        core, marked = self._core, {each.token for each in self.notes()}
        return [each for each in core.tokens.rows() if each.id not in marked and each.id != core.tokens.home_id]

    def left_contradictions(self) -> list[str]:
        """How the database contradicts the notes on tokens that were left."""
        epoch = self._epoch()
        return [each for each in (self._contradicts(note, epoch) for note in self.notes()) if each is not None]

    def proves(self, message: bytes, mac: str, version: int | None = None) -> bool:
        """True if the token made that HMAC (hex) over the message."""
        lost: HsmKmsError | None = None
        for each in reversed(versions(self._core, PURPOSE)):
            try:
                if version in (None, each.version) and hmac.compare_digest(self._mac(each, message).hex(), mac):
                    return True
            except (ObjectLostError, TokenUnavailableError) as exc:  # of an interrupted rotation, or a token left
                lost = exc
        if lost is not None:
            raise lost
        return False

    def remove_notes(self, token_id: str) -> None:
        """Take the notes off a token that is about to be forgotten."""
        with self._alone():
            device = self._core.tokens.of(token_id)
            device.remove_notes(own_permit(OperatorAct.SEAL), self._prefix())
            elsewhere = self._elsewhere()
            if elsewhere is not None and elsewhere.exists():
                _replace(
                    elsewhere, b"\n".join(encode(each) for each in self._lines_elsewhere() if each.token != token_id)
                )

    def accepted_with(self) -> set[int]:
        """The versions of the key that some acceptance of the log was sealed with."""
        return {each.key_version for each in self._all() if each.restored}

    def versions_used(self) -> set[int]:
        """The versions of the key that some seal of the log was made with."""
        return {each.key_version for each in self._all()}

    def _all(self) -> list[Seal]:
        """Every seal in the file, unproven."""
        lines = self._seals.read_bytes().splitlines() if self._seals.exists() else []
        return [found.seal for found in map(audit_seal.read, lines) if found is not None]

    def _alone(self) -> AbstractContextManager[None]:
        """Let one sealer at a time into the block; it may be that no record was ever written."""
        audit_files.make_folder(self.folder)
        self._core.tokens.may_have_moved()  # a note on a token that was left must not be replaced
        return exclusive(self.folder / audit_files.SEAL_LOCK, _LOCK_SECONDS)

    def _seal(self, unless_within: timedelta) -> bool:
        last, notes = self.last(), self.notes()
        heads = self._heads()
        self._check(last, notes, heads)
        if last is not None and abs(self._core.clock() - last.seal.time) < unless_within:
            return False
        seal = self._draft(last, last.seal.number if last else 0, heads)
        if last is not None and {lane: each.head for lane, each in seal.lanes.items()} == {
            lane: each.head for lane, each in last.seal.lanes.items()
        }:
            note = audit_seal.newest(notes)
            if note is None or note.number < last.seal.number:
                self._remember(last.seal.number, last.digest)  # the one who made it was interrupted
            return False
        self._write(seal)
        return True

    def _check(self, last: SealedLine | None, notes: list[Note], heads: dict[str, Head], *, prove: bool = True) -> None:
        """Raise Contradiction if what is there is not a continuation of what was sealed."""
        note = audit_seal.newest(notes)
        self._check_left(notes, self._epoch())
        if note is not None and (last is None or note.number > last.seal.number):
            raise Contradiction(_CONTRADICTED.format("the token remembers a newer seal than the audit log has"))
        if last is None:
            return
        if note is not None and note.number == last.seal.number and note.digest != last.digest:
            raise Contradiction(_CONTRADICTED.format("the audit log's newest seal is not the one on the token"))
        if prove and not self.proves(last.message, last.mac, last.seal.key_version):
            raise Contradiction(_CONTRADICTED.format("the audit log's newest seal was not made by this token"))
        if self._epoch() < last.seal.epoch:
            raise Contradiction(_CONTRADICTED.format("the control-plane database is older than the newest seal"))
        contradiction = self._core.seals.contradiction(last.seal.root_number, last.seal.root)
        if last.seal.root_number and contradiction is not None:
            raise Contradiction(_CONTRADICTED.format(contradiction))
        for lane, each in last.seal.lanes.items():
            found = heads.get(lane)
            if found is None or found.sequence < each.head.sequence:
                at = found.sequence if found is not None else 0
                words = f"lane {lane} of the audit log ends at record {at}, but {each.head.sequence} were sealed"
                raise Contradiction(_CONTRADICTED.format(words))

    def _check_left(self, notes: list[Note], epoch: int) -> None:
        """Raise Contradiction if the database is from before the installation has left a token."""
        for each in notes:
            contradiction = self._contradicts(each, epoch)
            if contradiction is not None:
                raise Contradiction(_CONTRADICTED.format(contradiction))

    def _contradicts(self, note: Note, epoch: int) -> str | None:
        if not note.token:
            return None
        if note.token == self._core.tokens.home_id:
            return f"the database is older than the migration to {note.left_for}: its home is a token that was left"
        if epoch < note.epoch:
            return f"the database is older than the migration to {note.left_for}"
        return None

    def _draft(self, last: SealedLine | None, number: int, heads: dict[str, Head]) -> Seal:
        key = self._key()
        starts = {lane: each.start for lane, each in last.seal.lanes.items()} if last is not None else {}
        root = self._core.seals.root()
        return Seal(
            number=number + 1,
            time=self._core.clock(),
            installation=self._core.installation.id,
            key_version=key.version,
            epoch=self._epoch(),
            previous=last.digest if last is not None else "",
            lanes={lane: LaneSeal(head=head, start=starts.get(lane)) for lane, head in heads.items()},
            root_number=root.number if root is not None else 0,
            root=root.value.hex() if root is not None else "",
        )

    def _write(self, seal: Seal) -> None:
        # The mac first: nothing is written that the token has not vouched for.
        key = next(each for each in versions(self._core, PURPOSE) if each.version == seal.key_version)
        line = audit_seal.line(seal, self._mac(key, audit_seal.message(seal)))
        audit_files.append(self._seals, line)
        self._remember(seal.number, audit_seal.digest(line))

    def _remember(self, number: int, digest: str) -> None:
        note = Note(number=number, digest=digest)
        # By the oldest version there: a database that was restored from before a rotation must be able to prove it.
        known, home_id = versions(self._core, PURPOSE), self._core.tokens.home_id
        oldest = next((each for each in known if each.token_id == home_id), known[0])
        mac = self._mac(oldest, audit_seal.note_message(note)).hex()
        others = [each for each in self._lines_elsewhere() if each.token not in ("", home_id)]
        self._keep(home_id, str(number), replace(note, mac=mac), others)

    def _leave(self, notes: list[Note]) -> None:
        """Leave notes on all tokens but the home, unless one of these is there: left for the home, now."""
        core, last = self._core, self.last()
        home_id, marked, epoch = core.tokens.home_id, {each.token for each in notes}, self._epoch()
        rows = {each.id: each for each in core.tokens.rows()}
        for row in [each for each in rows.values() if each.id not in marked and each.id != home_id]:
            note = Note(
                number=last.seal.number if last is not None else 0,
                digest=last.digest if last is not None else "",
                token=row.id,
                left_for=f"the token {rows[home_id].label!r} (serial {rows[home_id].serial})",
                epoch=epoch,
            )
            try:
                # By the installation's MAC key, which every database knows that ever had the token as its home.
                oldest = versions(core, MAC_PURPOSE, row.id)[0]
                mac = self._mac(oldest, audit_seal.note_message(note)).hex()
                others = [each for each in self._lines_elsewhere() if each.token != row.id]
                self._keep(row.id, f"left-{epoch}", replace(note, mac=mac), others)
            except (ObjectLostError, TokenUnavailableError) as exc:
                log.warning("the token %r, which was left, does not know of it yet: %s", row.label, exc)

    def _keep(self, token_id: str, name: str, note: Note, others: list[Note]) -> None:
        """Put a note on a token in the place of the one there, and with the others into the file elsewhere."""
        elsewhere = self._elsewhere()
        if elsewhere is not None:
            _replace(elsewhere, b"\n".join(map(encode, (note, *others))))
        try:
            permit, device = own_permit(OperatorAct.SEAL), self._core.tokens.of(token_id)
            device.replace_note(permit, self._prefix(), f"{self._prefix()}{name}", encode(note))
        except UnsupportedOperationException as exc:
            if elsewhere is None:
                log.warning("the newest seal of the audit log is kept beside the log alone: %s", exc)

    def _notes_on(self, token_id: str) -> list[Note]:
        """The proven notes on a token."""
        texts = self._core.tokens.of(token_id).notes(own_permit(OperatorAct.SEAL), self._prefix()).values()
        return self._proven([note for note in map(audit_seal.read_note, texts) if note is not None])

    def _lines_elsewhere(self) -> list[Note]:
        """The notes in the file elsewhere, one a line, unproven."""
        path = self._elsewhere()
        lines = path.read_bytes().splitlines() if path is not None and path.exists() else []
        return [note for note in map(audit_seal.read_note, lines) if note is not None]

    def _proven(self, notes: list[Note]) -> list[Note]:
        return [each for each in notes if self._proves_note(each)]

    def _proves_note(self, note: Note) -> bool:
        """True if the token of a note made it; also False where only a token that was left, and is away, may have."""
        message, core = audit_seal.note_message(note), self._core
        lost: HsmKmsError | None = None
        for each in versions(core, MAC_PURPOSE, note.token) if note.token else versions(core, PURPOSE):
            try:
                if hmac.compare_digest(self._mac(each, message).hex(), note.mac):
                    return True
            except (ObjectLostError, TokenUnavailableError) as exc:
                lost = exc if each.token_id == core.tokens.home_id else lost
        if lost is not None:
            raise lost
        return False

    def _elsewhere(self) -> Path | None:
        named = self._core.audit.policy.seal_file
        return Path(named) if named is not None else None

    def _heads(self) -> dict[str, Head]:
        """The end of each lane, on the disk."""
        heads = {}
        for lane, parts in audit_files.segments(self.folder).items():
            for each in reversed(parts):
                audit_files.sync(each.path)
                head = audit_chain.head_of(audit_files.last_line(each.path), each.number)
                if head is not None:
                    heads[lane] = head
                    break
        return heads

    def _epoch(self) -> int:
        with self._core.store.reading() as conn:
            return changes.latest(conn)

    def _prefix(self) -> str:
        return f"hsmkms/{self._core.installation.short_id}/{PURPOSE}/"

    def _key(self) -> InstallationKeyRow:
        """The newest of the keys that seal; made if it is not there yet."""
        if self._newest not in versions(self._core, PURPOSE)[-1:]:
            self._newest = sealing_key(self._core, PURPOSE)
        return self._newest

    def _mac(self, key: InstallationKeyRow, message: bytes) -> bytes:
        device = self._core.tokens.of(key.token_id)
        return device.mac(own_permit(OperatorAct.SEAL, key.cka_id), key.cka_id, message)


def _replace(path: Path, value: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.write_bytes(value)
        draft.replace(path)
    except OSError as exc:
        raise audit_files.unwritable(path, exc) from exc


def seal_quietly(core: Core) -> None:
    """Seal as a process ends; what hinders it is logged, and the next one seals for it."""
    try:
        Sealer(core).seal()
    except HsmKmsError as exc:
        log.warning("the audit log could not be sealed now: %s", exc)


def look_at_home(core: Core) -> None:
    """Raise the alarm, once, where the home is a token that the installation has left: the database is an older one."""
    try:
        Sealer(core).check_home()
    except Contradiction as exc:
        core.audit.alarm = str(exc)
        log.error("%s", exc)  # noqa: TRY400 - told in one sentence
    except HsmKmsError as exc:
        log.warning("the notes on the token could not be read now: %s", exc)


def seal_rows(core: Core) -> None:
    """Seal the rows of a database that never was sealed: a new one, or one from before there were seals.

    One whose seals were removed stays as it is: the newest seal of the audit log knows of them. An empty one has
    nothing to lose.
    """
    if core.seals.root() is not None:
        return
    last = Sealer(core).last()
    if last is not None and last.seal.root_number and not core.seals.empty():
        log.error("the seals of the control-plane database were removed, so nothing in it is used: restore a backup")
        return
    region = core.installation.default_region
    core.seals.seal_all(again=False, tell=lambda: core.audit.event("SealStore", region, "", {}))
