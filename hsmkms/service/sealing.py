"""Sealing the audit log: at intervals, and when a process that has written ends. One sealer at a time.

The newest seal is named by a note on the token, which no copy of the disk brings back. Where what is there contradicts
the newest seal, nothing is sealed until the operator has looked: a new seal must not hide what the old one says.
"""

import hmac
import logging
from collections.abc import Iterable
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec
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
from hsmkms.store.installation import InstallationKeyRow

log = logging.getLogger("hsmkms.service")

PURPOSE: Final = "audit-seal"
_LOCK_SECONDS: Final = 60.0
_CONTRADICTED: Final = "{}: run `hsmkms audit verify`, and then `hsmkms accept-store` if there is a good reason for it"


_NOTED: Final = "noted.json"
"""The file that remembers the newest note that each token has taken, by the token's id."""


class Proof(Enum):
    """What the token says of a MAC. UNKNOWN: it cannot say, since it does not have the key that made it."""

    PROVEN = "proven"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


class Contradiction(StoreError):
    """The log, or the database, is not what the newest seal says."""


class Sealer:
    """Seals the log of an open installation, and reads its seals."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.folder = core.audit.folder
        self._seals = self.folder / audit_files.SEALS
        self._newest_key: InstallationKeyRow | None = None

    def seal(self, unless_within: timedelta = timedelta()) -> bool:
        """Make a seal if there is anything new. False if not, or if the log contradicts the newest seal (an alarm).

        ``unless_within``: nor if somebody else has made one so lately. SoftHSM sometimes fails a call
        (CKR_GENERAL_ERROR) in the instant in which another process destroys an object: no more notes than are needed.
        """
        try:
            with exclusive(self.folder / audit_files.SEAL_LOCK, _LOCK_SECONDS):
                made = self._seal(unless_within)
        except Contradiction as exc:
            self._core.audit.alarm = str(exc)
            log.error("%s", exc)  # noqa: TRY400 - told in one sentence
            return False
        self._core.audit.alarm = None
        return made

    def check(self) -> None:
        """Raise Contradiction if what is there is not a continuation of what was sealed."""
        self._check(self.last(), self.note(), self._heads())

    def accept(self, faults: tuple[Fault, ...]) -> Seal:
        """Seal what is there now, with the faults that the operator has seen; from here on it counts as right."""
        with exclusive(self.folder / audit_files.SEAL_LOCK, _LOCK_SECONDS):
            last, note = self.last(), self.note()
            newest = max(last.seal.number if last else 0, note.number if note else 0)
            seal = self._draft(last, newest, self._heads())
            seal = replace(seal, accepted=faults, restored=True)
            self._write(seal)
        self._core.audit.alarm = None
        return seal

    def move_start(self, starts: dict[str, Head]) -> None:
        """Seal that what was archived ends there."""
        with exclusive(self.folder / audit_files.SEAL_LOCK, _LOCK_SECONDS):
            last, note = self.last(), self.note()
            heads = self._heads()
            self._check(last, note, heads)
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
        """What the token, or the file elsewhere, remembers of the newest seal; only what is proven counts."""
        return self._newest_of(self._notes())

    def remembers(self) -> bool:
        """True if the token, or the file elsewhere, has a note of any seal, proven or not."""
        return bool(self._notes())

    def _notes(self) -> list[bytes]:
        texts = list(self._core.device.notes(own_permit(OperatorAct.SEAL), self._prefix()).values())
        elsewhere = self._elsewhere()
        if elsewhere is not None and elsewhere.exists():
            texts.append(elsewhere.read_bytes())
        return texts

    def older_home(self) -> str | None:
        """How the home shows that it is an older copy of itself, or None."""
        home_id = self._core.tokens.home_id
        return self.older(home_id, noted_on(self.folder, home_id))

    def older(self, token_id: str, noted: int) -> str | None:
        """How a token shows that it is an older copy of itself, if it has taken the note of seal ``noted``; or None."""
        if not noted:
            return None
        device = self._core.tokens.of(token_id)
        found = self._newest_of(device.notes(own_permit(OperatorAct.SEAL), self._prefix()).values())
        newest = found.number if found is not None else 0
        if newest >= noted or (found is None and self._elsewhere() is not None):  # it may keep no notes any more
            return None
        return (
            f"the token {device.profile.label!r} is an older copy of itself: it remembers seal {newest or 'none'} of "
            f"the audit log, and has taken the note of seal {noted}. What was made since then is not on it: put the "
            "newer token, or a newer backup of it, back. If there is none, `hsmkms reconcile` shows what is lost, and "
            "`hsmkms accept-store` takes the token as it is"
        )

    def _newest_of(self, texts: Iterable[bytes]) -> Note | None:
        """The newest of the notes that are proven."""
        notes = [note for note in map(audit_seal.read_note, texts) if note is not None]
        return audit_seal.newest(note for note in notes if self.proves(audit_seal.note_message(note), note.mac))

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

    def prove(self, line: SealedLine) -> Proof:
        """What the token says of a seal; its key may be unknown here, lost, or on a token that is away."""
        version = line.seal.key_version
        if all(each.version != version for each in versions(self._core, PURPOSE)):
            return Proof.UNKNOWN
        try:
            return Proof.PROVEN if self.proves(line.message, line.mac, version) else Proof.REFUTED
        except (ObjectLostError, TokenUnavailableError):
            return Proof.UNKNOWN

    def versions_used(self) -> set[int]:
        """The versions of the key that some seal of the log was made with."""
        lines = self._seals.read_bytes().splitlines() if self._seals.exists() else []
        return {found.seal.key_version for found in map(audit_seal.read, lines) if found is not None}

    def _seal(self, unless_within: timedelta) -> bool:
        last, note = self.last(), self.note()
        heads = self._heads()
        self._check(last, note, heads)
        if last is not None and abs(self._core.clock() - last.seal.time) < unless_within:
            return False
        seal = self._draft(last, last.seal.number if last else 0, heads)
        if last is not None and {lane: each.head for lane, each in seal.lanes.items()} == {
            lane: each.head for lane, each in last.seal.lanes.items()
        }:
            if note is None or note.number < last.seal.number:
                self._remember(last.seal.number, last.digest)  # the one who made it was interrupted
            return False
        self._write(seal)
        return True

    def _check(self, last: SealedLine | None, note: Note | None, heads: dict[str, Head]) -> None:
        """Raise Contradiction if what is there is not a continuation of what was sealed."""
        older = self.older_home()
        if older is not None:
            raise Contradiction(older)
        if note is not None and (last is None or note.number > last.seal.number):
            raise Contradiction(_CONTRADICTED.format("the token remembers a newer seal than the audit log has"))
        if last is None:
            return
        if note is not None and note.number == last.seal.number and note.digest != last.digest:
            raise Contradiction(_CONTRADICTED.format("the audit log's newest seal is not the one on the token"))
        if not self.proves(last.message, last.mac, last.seal.key_version):
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
            if found.sequence == each.head.sequence and found.hash != each.head.hash:
                words = f"record {found.sequence} of lane {lane} of the audit log is not the one that was sealed"
                raise Contradiction(_CONTRADICTED.format(words))

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
        value = encode(Note(number=number, digest=digest, mac=mac))
        elsewhere = self._elsewhere()
        if elsewhere is not None:
            _replace(elsewhere, value)
        try:
            permit = own_permit(OperatorAct.SEAL)
            self._core.device.replace_note(permit, self._prefix(), f"{self._prefix()}{number}", value)
            _write_noted(self.folder, home_id, number)
        except UnsupportedOperationException as exc:
            if elsewhere is None:
                log.warning("the newest seal of the audit log is kept beside the log alone: %s", exc)

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
        if self._newest_key not in versions(self._core, PURPOSE)[-1:]:
            self._newest_key = sealing_key(self._core, PURPOSE)
        return self._newest_key

    def _mac(self, key: InstallationKeyRow, message: bytes) -> bytes:
        device = self._core.tokens.of(key.token_id)
        if not device.is_labelled(key.cka_id, key.label(self._core.installation.id)):
            # The row was put there by hand, with the id of a key whose HMACs its users can have.
            raise ObjectLostError("the token does not hold the key that seals the audit log")
        return device.mac(own_permit(OperatorAct.SEAL, key.cka_id), key.cka_id, message)


def noted_on(folder: Path, token_id: str) -> int:
    """The number of the newest seal whose note that token has taken; 0 if that is not known."""
    return _noted(folder).get(token_id, 0)


def _noted(folder: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode((folder / _NOTED).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        return {}


def _write_noted(folder: Path, token_id: str, number: int) -> None:
    _replace(folder / _NOTED, encode(_noted(folder) | {token_id: number}))


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


def seal_rows(core: Core) -> None:
    """Seal the rows of a database that never was sealed, and make the tree of one that has seals but no tree.

    One whose seals were removed stays as it is: the newest seal of the audit log knows of them. An empty one has
    nothing to lose. A tree is only made where all rows are as they were sealed, so removing it makes no edit right.
    """
    region = core.installation.default_region

    def tell() -> None:
        core.audit.event("SealStore", region, "", {})

    if core.seals.root() is not None:
        if not (core.seals.planted() or core.seals.plant(tell) or core.seals.planted()):
            log.error("the rows of the control-plane database are not all as they were sealed: `hsmkms verify-store`")
        return
    last = Sealer(core).last()
    if last is not None and last.seal.root_number and not core.seals.empty():
        log.error("the seals of the control-plane database were removed, so nothing in it is used: restore a backup")
        return
    core.seals.seal_all(again=False, tell=tell)
