"""Seal the audit log at intervals, and when a process that has written records ends. One sealer at a time.

A note on the token names the newest seal, which restoring the disk cannot undo. If the present state contradicts the
newest seal, nothing is sealed until the operator has examined it: a new seal must not hide what the old one proves.
"""

import hmac
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from enum import Enum
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from hsmkms.errors import (
    HsmKmsError,
    ObjectLostError,
    StoreError,
    TokenUnavailableError,
)
from hsmkms.model.audit import Fault, Head, LaneSeal, Seal
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.process import exclusive
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.rules.audit import seal as audit_seal
from hsmkms.rules.audit.seal import Note, SealedLine
from hsmkms.service.audit.freshness import settle
from hsmkms.service.audit.node_heads import Known, NodeHeads, NodeSeals, acceptance_of
from hsmkms.service.audit.seal_notes import SealNotes, seal_mac
from hsmkms.service.keys.installation_keys import lost, sealed_versions, sealing_key, versions
from hsmkms.service.runtime.core import Core
from hsmkms.store import audit_files, changes
from hsmkms.store.installation import InstallationKeyRow, TokenRow

log = logging.getLogger("hsmkms.service")

_LOCK_SECONDS: Final = 60.0
_OTHERS_EVERY: Final = timedelta(minutes=10)
"""How often a node whose own log has no new records seals what other nodes have published."""

_CONTRADICTED: Final = "{}: run `hsmkms audit verify`, and then `hsmkms accept-store` if there is a good reason for it"


class Proof(Enum):
    """Result of verifying a MAC on the token. UNKNOWN: the token does not have the key."""

    PROVEN = "proven"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


class Contradiction(StoreError):
    """Log or database contradict the newest seal."""


class Sealer:
    """Makes and reads the seals of an open installation's log."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.folder = core.audit.folder
        self._seals = self.folder / audit_files.SEALS
        self.notes = SealNotes(core)
        self.nodes = NodeHeads(core)
        self._newest_key: InstallationKeyRow | None = None

    def alone(self) -> AbstractContextManager[object]:
        """Hold the cross-process seal lock; creates the log's folder if there is none yet."""
        audit_files.make_folder(self.folder)
        self._core.tokens.may_have_moved()  # the note on a former home must not be replaced
        return exclusive(self.folder / audit_files.SEAL_LOCK, _LOCK_SECONDS)

    def seal(self, unless_within: timedelta = timedelta()) -> bool:
        """Seal new records. False if there are none, or if the log contradicts the newest seal (raises the alarm).

        ``unless_within``: also False if any process made a seal within that time. SoftHSM sometimes fails a call
        (CKR_GENERAL_ERROR) at the instant when another process destroys an object, so notes are replaced rarely.
        """
        made = False
        try:
            with self.alone():
                made = self._seal(unless_within)
            self.check_others()
        except Contradiction as exc:
            self._core.audit.alarm = str(exc)
            log.error("%s", exc)  # noqa: TRY400 - the sentence suffices
            return made
        self._core.audit.alarm = None
        return made

    def check(self) -> None:
        """Raise Contradiction if the present state does not continue the sealed one."""
        self._look(lambda: self._check(*self._present()))

    def check_others(self) -> None:
        """Raise Contradiction if what other nodes have published does not continue what this node has sealed."""

        def check() -> None:
            last = self.last()
            known = self.nodes.known()
            faults = [*self.nodes.forged(known), *self.nodes.others(known, last.seal if last is not None else None)]
            if faults:
                raise Contradiction(_CONTRADICTED.format(faults[0].detail))

        self._look(check)

    def unproven_contradiction(self) -> str | None:
        """Return how the present state contradicts the newest seal, verified or not, or None."""
        try:
            self._look(lambda: self._check(*self._present(), prove=False))
        except Contradiction as exc:
            return str(exc)
        return None

    def remembered(self) -> bool:
        """Return False if the log has a seal, and neither the home nor the file elsewhere has a note of any."""
        return self.last() is None or self.notes.remembers()

    def check_home(self) -> None:
        """Raise Contradiction if the home has a note that it is a former home. Fast: reads only its notes."""
        self._look(lambda: self._check_left(self.notes.on(self._core.tokens.home_id)))

    def accept(self, faults: tuple[Fault, ...]) -> Seal:
        """Seal the present state as accepted, with the faults that the operator has seen."""
        with self.alone():
            last, note, known = self.last(), self.notes.newest(), self.nodes.known()
            newest = max(last.seal.number if last else 0, note.number if note else 0)
            heads = self._heads()
            seal = self._draft(last, newest, heads, self.nodes.to_seal(known, None))
            seal = replace(seal, accepted=faults, restored=True)
            self._write(seal)
            self.nodes.replace(heads, acceptance_of(seal))
            epoch = self._epoch()  # tokens left at a later epoch were left in the abandoned state
            notes = [each for each in self.notes.every() if self.notes.contradiction(each, epoch) is None]
            self.notes.leave(notes, self.last(), epoch)
        self._core.audit.alarm = None
        return seal

    def move_start(self, starts: dict[str, Head]) -> None:
        """Seal the new starts of the lanes after archiving."""
        with self.alone():
            last, notes, known, heads = self._present()
            self._check(last, notes, known, heads)
            seal = self._draft(last, last.seal.number if last else 0, heads, self._nodes_to_seal(known, last))
            lanes = {
                lane: LaneSeal(head=each.head, start=starts.get(lane, each.start)) for lane, each in seal.lanes.items()
            }
            self._write(replace(seal, lanes=lanes))

    def last(self) -> SealedLine | None:
        """Return the newest seal in the file, not verified; None if there is none."""
        text = audit_files.last_line(self._seals) if self._seals.exists() else b""
        line = audit_seal.read(text) if text else None
        if text and line is None:
            raise Contradiction(_CONTRADICTED.format("the last line of the audit log's seals is no seal"))
        return line

    def leave(self) -> list[TokenRow]:
        """Write a note to every former home; return those that still lack one because they are away."""
        with self.alone():
            self.notes.leave(self.notes.every(), self.last(), self._epoch())
        return self.notes.unmarked()

    def remove_notes(self, token_id: str) -> None:
        """Remove the notes from a token that is about to be forgotten."""
        with self.alone():
            self.notes.remove(token_id)

    def proves(self, message: bytes, mac: str, version: int | None = None) -> bool:
        """Verify an HMAC (hex) over the message with the sealing keys; raises if none verifies and one is missing."""
        fault: HsmKmsError | None = None
        for each in reversed(versions(self._core, KeyPurpose.AUDIT_SEAL)):
            try:
                if version not in (None, each.version):
                    continue
                if hmac.compare_digest(seal_mac(self._core, each, message).hex(), mac):
                    return True
            except ObjectLostError:  # the version is of an interrupted rotation, or was lost
                fault = lost(each)
            except TokenUnavailableError as exc:  # it is on a former home
                fault = exc
        if fault is not None:
            raise fault
        return False

    def prove(self, line: SealedLine) -> Proof:
        """Verify a seal's MAC; UNKNOWN if its key is not in the database, lost, or on a token that is away."""
        version = line.seal.key_version
        if all(each.version != version for each in versions(self._core, KeyPurpose.AUDIT_SEAL)):
            return Proof.UNKNOWN
        try:
            return Proof.PROVEN if self.proves(line.message, line.mac, version) else Proof.REFUTED
        except (ObjectLostError, TokenUnavailableError):
            return Proof.UNKNOWN

    def accepted_with(self) -> set[int]:
        """Return the key versions with which acceptances of the log were sealed."""
        return {each.key_version for each in self._all() if each.restored}

    def versions_used(self) -> set[int]:
        """Return the key versions with which seals of the log were made."""
        return sealed_versions(self._core)

    def _all(self) -> list[Seal]:
        """Return every seal in the file, not verified."""
        lines = audit_files.lines(self._seals) if self._seals.exists() else ()
        return [line.seal for line in map(audit_seal.read, lines) if line is not None]

    def _look(self, check: Callable[[], None]) -> None:
        """Run a check; if it fails, run it again under the seal lock, since a concurrent seal can make it fail."""
        try:
            check()
        except Contradiction:
            with self.alone():
                check()

    def _seal(self, unless_within: timedelta) -> bool:
        last, notes, known, heads = self._present()
        self._check(last, notes, known, heads)
        self.nodes.publish(heads, acceptance_of(last.seal if last is not None else None))
        self.nodes.renew(known)
        age = abs(self._core.clock() - last.seal.time) if last is not None else timedelta.max
        if age < unless_within:
            return False
        seal = self._draft(last, last.seal.number if last else 0, heads, self._nodes_to_seal(known, last))
        if last is not None and _says_nothing_new(seal, last.seal, age):
            note = self.notes.newest_of(notes)
            if note is None or note.number < last.seal.number:
                self.notes.remember(last.seal.number, last.digest)  # the sealer was interrupted before the note
            return False
        self._write(seal)
        return True

    def _present(self) -> tuple[SealedLine | None, list[Note], Known, dict[str, Head]]:
        """Return the newest seal, the notes, what is published, and the ends of the lanes.

        The latter are read last, since a node publishes only what is on its disk.
        """
        return self.last(), self.notes.every(), self.nodes.known(), self._heads()

    def _nodes_to_seal(self, known: Known, last: SealedLine | None) -> NodeSeals:
        return self.nodes.to_seal(known, last.seal if last is not None else None)

    def _check(
        self,
        last: SealedLine | None,
        notes: list[Note],
        known: Known,
        heads: dict[str, Head],
        *,
        prove: bool = True,
    ) -> None:
        """Raise Contradiction if the present state does not continue the sealed one."""
        older = self.notes.older_home()
        if older is not None:
            settle(self._core, self._core.tokens.home_id, older)
            raise Contradiction(older)
        self._check_left(notes)
        _check_newest(last, self.notes.newest_of(notes))
        published = self.nodes.contradiction(known, heads, acceptance_of(last.seal if last is not None else None))
        if published is not None:
            raise Contradiction(_CONTRADICTED.format(published))
        if last is None:
            return
        if prove and not self.proves(last.message, last.mac, last.seal.key_version):
            raise Contradiction(_CONTRADICTED.format("the audit log's newest seal was not made by this token"))
        if last.seal.node not in (UNSET, self._core.audit.node_id):
            raise Contradiction(_CONTRADICTED.format(f"the audit log is that of another node, {last.seal.node}"))
        self._check_database(last.seal)
        _check_lanes(last.seal, heads)

    def _check_left(self, notes: list[Note]) -> None:
        """Raise Contradiction if the database is older than a migration that left a token."""
        for each in self.notes.contradictions(notes, self._epoch()):
            raise Contradiction(_CONTRADICTED.format(each))

    def _check_database(self, seal: Seal) -> None:
        if self._epoch() < seal.epoch:
            raise Contradiction(_CONTRADICTED.format("the control-plane database is older than the newest seal"))
        contradiction = self._core.seals.contradiction(seal.root_number, seal.root)
        if seal.root_number and contradiction is not None:
            raise Contradiction(_CONTRADICTED.format(contradiction))

    def _draft(self, last: SealedLine | None, number: int, heads: dict[str, Head], nodes: NodeSeals) -> Seal:
        key, node_id = self._key(), self._core.audit.node_id
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
            node=node_id or UNSET,
            acceptance=acceptance_of(last.seal if last is not None else None) if node_id else UNSET,
            nodes=nodes if node_id else UNSET,
        )

    def _write(self, seal: Seal) -> None:
        # Compute the MAC first: a seal is written only with its proof.
        key = next(each for each in versions(self._core, KeyPurpose.AUDIT_SEAL) if each.version == seal.key_version)
        line = audit_seal.line(seal, seal_mac(self._core, key, audit_seal.message(seal)))
        audit_files.append(self._seals, line)
        self.notes.remember(seal.number, audit_seal.digest(line))

    def _heads(self) -> dict[str, Head]:
        """Sync each lane and return its last record."""
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

    def _key(self) -> InstallationKeyRow:
        """Return the newest sealing key, created if there is none yet."""
        if self._newest_key not in versions(self._core, KeyPurpose.AUDIT_SEAL)[-1:]:
            self._newest_key = sealing_key(self._core, KeyPurpose.AUDIT_SEAL)
        return self._newest_key


def _says_nothing_new(seal: Seal, last: Seal, age: timedelta) -> bool:
    """Return True if a seal of that state need not be made: only what other nodes write has changed, for a while."""
    heads = [{lane: each.head for lane, each in made.lanes.items()} for made in (seal, last)]
    return heads[0] == heads[1] and (seal.nodes == last.nodes or age < _OTHERS_EVERY)


def _check_newest(last: SealedLine | None, note: Note | None) -> None:
    """Raise Contradiction if the newest seal does not match the newest note."""
    if note is not None and (last is None or note.number > last.seal.number):
        raise Contradiction(_CONTRADICTED.format("the token remembers a newer seal than the audit log has"))
    if note is not None and last is not None and note.number == last.seal.number and note.digest != last.digest:
        raise Contradiction(_CONTRADICTED.format("the audit log's newest seal is not the one on the token"))


def _check_lanes(seal: Seal, heads: dict[str, Head]) -> None:
    """Raise Contradiction if the ends of the lanes do not continue the sealed ones."""
    for lane, each in seal.lanes.items():
        head = heads.get(lane)
        if head is None or head.sequence < each.head.sequence:
            at = head.sequence if head is not None else 0
            words = f"lane {lane} of the audit log ends at record {at}, but {each.head.sequence} were sealed"
            raise Contradiction(_CONTRADICTED.format(words))
        if head.sequence == each.head.sequence and head.hash != each.head.hash:
            words = f"record {head.sequence} of lane {lane} of the audit log is not the one that was sealed"
            raise Contradiction(_CONTRADICTED.format(words))


def seal_quietly(core: Core) -> None:
    """Seal as a process ends; errors are logged only, since the process must still deliver its result.

    The next process seals the records instead.
    """
    try:
        Sealer(core).seal()
    except (HsmKmsError, OSError) as exc:
        log.warning("the audit log could not be sealed now: %s", exc)


def look_at_home(core: Core) -> None:
    """Raise the alarm if the home has a note that it is a former home: the database is then an older one."""
    try:
        Sealer(core).check_home()
    except Contradiction as exc:
        core.audit.alarm = str(exc)
        log.error("%s", exc)  # noqa: TRY400 - the sentence suffices
    except HsmKmsError as exc:
        log.warning("the notes on the token could not be read now: %s", exc)
