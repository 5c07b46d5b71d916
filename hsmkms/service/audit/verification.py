"""Verify the audit log: records against chains, chains against seals, seals against the token."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from msgspec import UNSET, Struct

from hsmkms.errors import ObjectLostError
from hsmkms.model.audit import Fault, Head, Seal
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.rules.audit.chain import CHANGED, MISSING, NOT_PROVEN, ROLLED_BACK, Walker
from hsmkms.rules.audit.seal import Note, SealedLine
from hsmkms.service.audit.node_heads import acceptance_of
from hsmkms.service.audit.proven_seals import SealFile, Trusted, seal_fault
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.runtime.core import Core
from hsmkms.store import audit_files, changes
from hsmkms.store.audit_files import Segment

Progress = Callable[[int, int], None]
"""Callback after each record, with its bytes and the total of all records."""


class Verdict(Struct, frozen=True, kw_only=True):
    """Result of a verification. ``unsealed``: records after the newest proven seal, protected only by their chain.

    ``archived``: records that were moved away and were not read. ``unproven``: seals that the token can neither prove
    nor refute. ``accepted``: faults that the operator has accepted, and which are still the same.
    """

    records: int
    lanes: int
    seals: int
    unsealed: int
    archived: int
    faults: list[Fault]
    unproven: list[Fault]
    accepted: list[Fault]


class _Memory(Struct, frozen=True):
    """Notes and size of the seals, read together under the seal lock.

    ``end``: the size of their file. ``older``, ``left``: how the home is an older copy of itself, and how the database
    contradicts the tokens that were left. ``notes``: the verified notes, or why none can be verified; ``newest``: that
    of this log's newest seal; ``any``: a note exists.
    """

    end: int
    older: str | None
    left: list[str]
    notes: list[Note] | ObjectLostError
    newest: Note | None
    any: bool

    @classmethod
    def of(cls, core: Core, sealer: Sealer) -> Self:
        with sealer.alone():
            notes = _notes(sealer)
            return cls(
                end=audit_files.size(sealer.folder / audit_files.SEALS),
                older=sealer.notes.older_home(),
                left=sealer.notes.contradictions(notes, _epoch(core)) if isinstance(notes, list) else [],
                notes=notes,
                newest=sealer.notes.newest_of(notes) if isinstance(notes, list) else None,
                any=sealer.notes.remembers(),
            )


def _notes(sealer: Sealer) -> list[Note] | ObjectLostError:
    try:
        return sealer.notes.every()
    except ObjectLostError as exc:
        return exc


def _epoch(core: Core) -> int:
    with core.store.reading() as conn:
        return changes.latest(conn)


class Expected:
    """Expected state of the lanes of a log according to its proven seals."""

    def __init__(self, seals: SealFile) -> None:
        self.sealed: dict[str, dict[int, str]] = {}
        self.starts: dict[tuple[str, int], Head] = {}
        self.restarts: dict[str, set[int]] = {}
        self.acceptances: list[Seal] = []
        self.accepted: set[Fault] = set()
        self.newest: SealedLine | None = None
        for each in seals.trusted():
            self._take(each)

    def end(self, lane: str) -> int:
        """Return the last sealed sequence number of a lane."""
        return max(self.sealed.get(lane, {}), default=0)

    def _take(self, trusted: Trusted) -> None:
        """Apply the next seal."""
        self.newest, seal = trusted.line, trusted.line.seal
        if trusted.accepts:
            self.acceptances.append(seal)
            self.accepted |= set(seal.accepted)
            for lane, known in self.sealed.items():
                end = seal.lanes[lane].head.sequence if lane in seal.lanes else 0
                # The acceptance replaces earlier seals from its own end of the lane on.
                self.sealed[lane] = {sequence: digest for sequence, digest in known.items() if sequence < end}
        for lane, each in seal.lanes.items():
            # The first seal wins: a later seal over the same record must not legitimise another record.
            self.sealed.setdefault(lane, {}).setdefault(each.head.sequence, each.head.hash)
            if each.start is not None:
                self.starts.setdefault((lane, each.start.segment), each.start)
            if trusted.accepts:
                self.restarts.setdefault(lane, set()).add(each.head.sequence)


def verify(
    core: Core,
    archives: Sequence[Path],
    progress: Progress,
    published_elsewhere: Callable[[Expected], Mapping[str, dict[int, str]]] = lambda _: {},
) -> Verdict:
    """Verify everything, as a stream; ``archives``: folders with archived segments.

    ``published_elsewhere``: hashes that this node has published, by lane and sequence, as other nodes know them.
    """
    sealer = Sealer(core)
    memory = _Memory.of(core, sealer)
    known = sealer.nodes.known()
    seals = SealFile(sealer, sealer.folder, memory.end)
    expected = Expected(seals)
    faults = seals.faults + _against_the_token(core, memory, seals.newest)
    faults += _against_the_database(core, expected.newest)
    newest = expected.newest.seal if expected.newest is not None else None
    faults += sealer.nodes.others(known, newest) + sealer.nodes.forged(known)
    ends = sealer.nodes.own(known, acceptance_of(newest))
    published = {lane: dict(hashes) for lane, hashes in published_elsewhere(expected).items()}
    for lane, head in ends.items():
        if head.sequence:
            published.setdefault(lane, {}).setdefault(head.sequence, head.hash)
    lanes = audit_files.merged((sealer.folder, *archives))
    log = LogFiles(core.audit.node_id, lanes, seals.newest.seal.number if seals.newest else 0)
    return walk(core, log, expected, published, faults, progress)


class LogFiles(Struct, frozen=True):
    """The segments of a node's log by lane, and the number of its newest seal."""

    node_id: str
    lanes: dict[str, list[Segment]]
    seals: int


def walk(
    core: Core,
    log: LogFiles,
    expected: Expected,
    published: Mapping[str, dict[int, str]],
    faults: list[Fault],
    progress: Progress,
) -> Verdict:
    """Verify all lanes of a log; ``faults``: those that were detected already.

    ``published``: hashes that the node has published, by lane and sequence.
    """
    faults, lanes = list(faults), log.lanes
    size = sum(each.path.stat().st_size for parts in lanes.values() for each in parts)
    records = unsealed = archived = 0
    for lane in sorted(lanes.keys() | expected.sealed.keys() | published.keys()):
        walker = _walker(core, log, lane, expected, published.get(lane, {}))
        for part in lanes.get(lane, []):
            for length in walker.walk(audit_files.lines(part.path)):
                progress(length, size)
        walker.finish()
        faults += walker.faults
        records += walker.records
        archived += walker.start.sequence
        unsealed += max(walker.sequence - expected.end(lane), 0)
    known = [each for each in faults if each in expected.accepted]
    new = [each for each in faults if each not in known]
    return Verdict(
        records=records,
        lanes=len(lanes),
        seals=log.seals,
        unsealed=unsealed,
        archived=archived,
        faults=[each for each in new if each.kind != NOT_PROVEN],
        unproven=[each for each in new if each.kind == NOT_PROVEN],
        accepted=known,
    )


def _walker(core: Core, log: LogFiles, lane: str, expected: Expected, published: dict[int, str]) -> Walker:
    """Return what verifies a lane from the beginning of its first segment on."""
    parts = log.lanes.get(lane, [])
    archived = [each for (name, _), each in expected.starts.items() if name == lane]
    first_line = next(iter(audit_files.lines(parts[0].path)), b"") if parts else b""
    genesis = audit_chain.beginning(core.installation.id, lane, log.node_id, first_line)
    start: Head | None = Head(sequence=0, hash=genesis, segment=0)
    if parts and parts[0].number > 1:
        start = next((each for each in archived if each.segment == parts[0].number - 1), None)
    lost = start is None
    start = start or Head(sequence=0, hash="", segment=0)
    sealed = {at: digest for at, digest in expected.sealed.get(lane, {}).items() if at > start.sequence}
    known = {at: digest for at, digest in published.items() if at > start.sequence}
    walker = Walker(lane, start, sealed, expected.restarts.get(lane, set()), known)
    if lost:
        what = f"the files before {parts[0].path.name} are not here, and were not archived"
        walker.faults.append(Fault(lane=lane, sequence=1, kind=MISSING, detail=what))
    return walker


def _against_the_token(core: Core, memory: _Memory, newest: SealedLine | None) -> list[Fault]:
    number = newest.seal.number if newest is not None else 1
    rolled_back = [memory.older] if memory.older is not None else []
    rolled_back += memory.left
    return [seal_fault(number, ROLLED_BACK, each) for each in rolled_back] + _against_the_note(core, memory, newest)


def _against_the_note(core: Core, memory: _Memory, newest: SealedLine | None) -> list[Fault]:
    """Compare the newest seal with the notes of it."""
    number = newest.seal.number if newest is not None else 1
    if isinstance(memory.notes, ObjectLostError):
        return [seal_fault(number, NOT_PROVEN, f"what the token remembers of it cannot be proven: {memory.notes}")]
    note = memory.newest
    if note is None and memory.any:
        return [seal_fault(number, NOT_PROVEN, "what the token remembers of it was made with a key that is not there")]
    if newest is None:
        return [seal_fault(1, MISSING, f"the token remembers seal {note.number}")] if note is not None else []
    seal, faults = newest.seal, []
    if seal.installation != core.installation.id:
        faults.append(seal_fault(seal.number, CHANGED, "it is of another installation"))
    if seal.node not in (UNSET, core.audit.node_id):
        faults.append(seal_fault(seal.number, CHANGED, f"it is of another node, {seal.node}"))
    if note is not None and note.number > seal.number:
        faults.append(seal_fault(seal.number + 1, MISSING, f"the token remembers seal {note.number}"))
    elif note is not None and note.number == seal.number and note.digest != newest.digest:
        faults.append(seal_fault(seal.number, CHANGED, "it is not the one that the token remembers"))
    return faults


def _against_the_database(core: Core, newest: SealedLine | None) -> list[Fault]:
    """Compare the control plane with the newest proven seal."""
    if newest is None:
        return []
    seal = newest.seal
    epoch = _epoch(core)
    if epoch < seal.epoch:
        words = f"the control-plane database is at change {epoch}, and was at {seal.epoch} when this was sealed"
        return [seal_fault(seal.number, ROLLED_BACK, words)]
    contradiction = core.seals.contradiction(seal.root_number, seal.root) if seal.root_number else None
    return [seal_fault(seal.number, ROLLED_BACK, contradiction)] if contradiction is not None else []
