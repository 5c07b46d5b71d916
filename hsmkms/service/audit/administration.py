"""Operate the audit log: periodic sealing, verification, archiving, and acceptance of its present state."""

import filecmp
import shutil
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from hsmkms import atomic_write
from hsmkms.errors import HsmKmsError, StoreError
from hsmkms.model.audit import Fault, Head
from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.service.audit.freshness import Freshness
from hsmkms.service.audit.gathering import GatheredVerdict, Gathering, verify_together
from hsmkms.service.audit.publishing import EndPublisher
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.audit.verification import Progress, Verdict, verify
from hsmkms.service.keys.installation_keys import require_made
from hsmkms.service.operations import deletion
from hsmkms.service.runtime.audit_log import AuditLog
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.seal_checks import RowFault
from hsmkms.store import audit_files, installation
from hsmkms.store.audit_files import Segment
from hsmkms.token_bucket import TokenBucket

SEALED_RECENTLY: Final = timedelta(seconds=30)
"""Skip a periodic seal if any process made one within this time: of several workers, one is enough."""

ROWS_AFTER_SECONDS: Final = 600.0
"""Delay after a process's start before its first check of all rows, which must not slow down the start."""

ROWS_EVERY_SECONDS: Final = 86_400.0

UNPROVEN_A_SECOND: Final = 20.0
"""Average rate of recorded requests without a valid signature: unauthenticated clients must not fill the disk."""

UNPROVEN_AT_ONCE: Final = 200.0


def _no_progress(read: int, size: int) -> None:
    """Ignore the progress."""
    del read, size


class AuditAdministration:
    """The audit log of an open installation. Get it as ``kms.operator.audit``."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._sealer = Sealer(core)
        self._publisher = EndPublisher(core, self._sealer)
        self._freshness = Freshness(core)
        self._unauthenticated = TokenBucket(UNPROVEN_A_SECOND, UNPROVEN_AT_ONCE, time.monotonic())
        self._unauthenticated_lock = threading.Lock()
        self._rows_next = time.monotonic() + ROWS_AFTER_SECONDS

    @property
    def log(self) -> AuditLog:
        """The log that records are written to."""
        return self._core.audit

    @property
    def region(self) -> str:
        """The region of records without one."""
        return self._core.installation.default_region

    @property
    def folder(self) -> Path:
        """The folder of the log's files."""
        return self._core.audit.folder

    def refused(self, caller: Caller, operation: Operation | None, error: HsmKmsError) -> None:
        """Record a request that was refused before the pipeline; unauthenticated ones are rate-limited."""
        if caller.principal or self._admits_unauthenticated():
            self._core.audit.refuse(caller, operation or "Unknown", error)

    def _admits_unauthenticated(self) -> bool:
        """Take a token of the bucket that limits records of unauthenticated requests; False if there is none."""
        with self._unauthenticated_lock:
            return self._unauthenticated.take(time.monotonic())

    def look_after(self) -> None:
        """Do periodic work: move records of dead processes from the outbox to the log, seal, and check all rows.

        A token that was found to be an older copy of itself is checked again, whether or not a log is kept.
        """
        book = self._core.audit
        self._freshness.look_again()
        book.recover_others()
        if book.used:
            book.tidy()
            self._sealer.seal(SEALED_RECENTLY)
        if time.monotonic() >= self._rows_next:
            self._rows_next = time.monotonic() + ROWS_EVERY_SECONDS
            self.verify_rows()

    @property
    def has_nodes(self) -> bool:
        """True if several nodes may have logs, so that each publishes the end of its own."""
        return self._sealer.nodes.shared

    def publish_end(self) -> None:
        """Publish the end of this process's lane of the log, for the seals of all nodes; fast if it has not moved."""
        self._publisher.publish()

    def check(self) -> None:
        """Raise StoreError if log or database contradict the newest seal. Fast: reads only the ends of the lanes.

        Also if the log of another node is shorter than this one has sealed.
        """
        self._sealer.check()
        self._sealer.check_others()

    def remembered(self) -> bool:
        """Return False if the log has a seal, and neither the home nor the file elsewhere has a note of any."""
        return self._sealer.remembered()

    def check_home(self) -> None:
        """Raise StoreError if the home has a note that it is a former home, even if no log is kept."""
        self._sealer.check_home()

    def verify(self, archives: Sequence[Path] = (), progress: Progress = _no_progress) -> Verdict:
        """Verify every record, every seal, and the notes of them on the token."""
        return verify(self._core, archives, progress)

    def verify_together(
        self, gathering: Gathering, archives: Sequence[Path] = (), progress: Progress = _no_progress
    ) -> GatheredVerdict:
        """Verify this node's log together with those of other nodes."""
        return verify_together(self._core, archives, gathering, progress)

    def verify_rows(self) -> list[RowFault]:
        """Verify every deciding row of the control plane against its seal."""
        with self._core.store.reading() as conn:
            return self._core.seals.verify(conn)

    def require_keys(self) -> None:
        """Raise ObjectLostError if a key that acceptance needs was lost: without it the rows cannot be verified."""
        for each in (KeyPurpose.MAC, KeyPurpose.AUDIT_SEAL):
            require_made(self._core, each)

    def accept(self, shown: tuple[list[Fault], list[RowFault]] | None = None) -> Verdict:
        """Accept log and database as they are now; return the accepted faults.

        ``shown``: the faults that the operator has seen. StoreError if they differ by now, or the schema was changed.

        danger: rows that were edited into the database become valid, and are sealed. Keys whose deletion is near get
        a new waiting period, since that may have been cancelled in the state which is abandoned.
        """
        self.require_keys()
        verdict, rows = self.verify(), self.verify_rows()
        if shown is not None and shown != ([*verdict.faults, *verdict.unproven], rows):
            raise StoreError("log or database have changed since they were verified: nothing was accepted; try again")
        core = self._core
        core.seals.require_schema()
        details = {
            "faults": [
                f"{each.lane} {each.sequence} {each.kind}: {each.detail}"
                for each in (*verdict.faults, *verdict.unproven)
            ],
            "rows": [f"{each.subject}: {each.reason}" for each in rows],
        } | ({"olderTokens": list(core.older.values())} if core.older else {})
        with core.audit.acting("AcceptStore", self.region, details):
            pass
        core.audit.flush()
        self._freshness.accept()
        core.seals.seal_all(again=True)
        deletion.postpone(core)
        if any(each.kind == audit_chain.ROLLED_BACK for each in verdict.faults):
            self._note_older_state()
        self._sealer.accept((*verdict.accepted, *verdict.faults, *verdict.unproven))
        return verdict

    def _note_older_state(self) -> None:
        """Record that these databases came back: what happened since is not known, as after the restore of a backup.

        Counts of encryptions may be too low, and keys without a row may be in use.
        """
        core, now = self._core, self._core.clock()
        with core.store.atomic() as tx:
            installation.set_restored(tx, now)
        core.installation = replace(core.installation, restored_at=now)

    def archive(self, place: Path) -> list[str]:
        """Move all segments except the newest of each lane to a folder; return their names.

        StoreError if the log does not verify, so that faults are examined before files are moved.
        """
        verdict = self.verify([place] if place.is_dir() else [])
        if verdict.faults or verdict.unproven:
            raise StoreError(
                "the audit log is not proven to be as it was written: run `hsmkms audit verify` before it is archived"
            )
        moved = [each for parts in audit_files.segments(self.folder).values() for each in parts[:-1]]
        if not moved:
            return []
        core = self._core
        shown = {"folder": str(place), "files": [each.path.name for each in moved]}
        with core.audit.acting("ArchiveAuditLog", self.region, shown):
            _copy(moved, place)
        core.audit.flush()
        self._sealer.move_start({each.lane: _end(each) for each in moved})
        for each in moved:
            each.path.unlink()
        return [each.path.name for each in moved]


def _end(part: Segment) -> Head:
    head = audit_chain.head_of(audit_files.last_line(part.path), part.number)
    if head is None:
        raise StoreError(f"{part.path} has no record: run `hsmkms audit verify`")
    return head


def _copy(parts: Sequence[Segment], place: Path) -> None:
    """Copy files and fsync them, each complete or not at all. StoreError if a file there would be replaced.

    A copy of the same file is one of an interrupted attempt; another file is of another node or installation.
    """
    audit_files.make_folder(place)
    try:
        for each in parts:
            there = place / each.path.name
            if there.exists() and not filecmp.cmp(each.path, there, shallow=False):
                raise StoreError(f"{there} is another file, of another node, say: name a folder for this log alone")
        for each in parts:
            with each.path.open("rb") as source, atomic_write.replacing(place / each.path.name) as copy:
                shutil.copyfileobj(source, copy)
    except OSError as exc:
        raise audit_files.unwritable(place, exc) from exc
