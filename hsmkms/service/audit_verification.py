"""Verifying the audit log: records against chains, chains against seals, seals against the token."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.model.audit import Fault, Head
from hsmkms.rules import audit_chain, audit_seal
from hsmkms.rules.audit_chain import CHANGED, MISSING, REORDERED, ROLLED_BACK, UNREADABLE, Walker
from hsmkms.rules.audit_seal import SealedLine
from hsmkms.service.core import Core
from hsmkms.service.sealing import Sealer
from hsmkms.store import audit_files, changes
from hsmkms.store.audit_files import Segment

SEALS: Final = "seals"
"""Stands for a lane's name in faults of the seals themselves."""

Progress = Callable[[int, int], None]
"""Told of bytes that were read, and of how many there are in all."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What verifying found. ``unsealed``: records behind the newest seal, which only their chain vouches for.

    ``accepted``: faults that the operator has accepted, and which are still the same.
    """

    records: int
    lanes: int
    seals: int
    unsealed: int
    faults: list[Fault]
    accepted: list[Fault]


class _Expected:
    """What the seals say of the lanes."""

    def __init__(self) -> None:
        self.sealed: dict[str, dict[int, str]] = {}
        self.starts: dict[tuple[str, int], Head] = {}
        self.restarts: dict[str, set[int]] = {}
        self.accepted: set[Fault] = set()
        self.newest: SealedLine | None = None

    def take(self, line: SealedLine) -> None:
        """The next seal."""
        self.newest = line
        seal = line.seal
        if seal.restored:
            self.accepted |= set(seal.accepted)
            for lane, known in self.sealed.items():
                end = seal.lanes[lane].head.sequence if lane in seal.lanes else 0
                self.sealed[lane] = {sequence: digest for sequence, digest in known.items() if sequence <= end}
        for lane, each in seal.lanes.items():
            self.sealed.setdefault(lane, {})[each.head.sequence] = each.head.hash
            if each.start is not None:
                self.starts[lane, each.start.segment] = each.start
            if seal.restored:
                self.restarts.setdefault(lane, set()).add(each.head.sequence)


def verify(core: Core, archives: Sequence[Path], progress: Progress) -> Verdict:
    """Look at everything, as a stream; ``archives``: folders with segments that were moved."""
    sealer = Sealer(core)
    expected = _Expected()
    faults = _seal_faults(core, sealer, expected)
    lanes = _segments(sealer.folder, archives)
    size = sum(each.path.stat().st_size for parts in lanes.values() for each in parts)
    records = unsealed = 0
    for lane in sorted(lanes.keys() | expected.sealed.keys()):
        walker = _walk(core, lane, lanes.get(lane, []), expected, lambda read: progress(read, size))
        faults += walker.faults
        records += walker.records
        unsealed += max(walker.sequence - max(expected.sealed.get(lane, {}), default=0), 0)
    known = [each for each in faults if each in expected.accepted]
    return Verdict(
        records=records,
        lanes=len(lanes),
        seals=expected.newest.seal.number if expected.newest else 0,
        unsealed=unsealed,
        faults=[each for each in faults if each not in known],
        accepted=known,
    )


def _segments(folder: Path, archives: Sequence[Path]) -> dict[str, list[Segment]]:
    by_lane: dict[str, dict[int, Segment]] = {}
    for place in (*archives, folder):
        for lane, parts in audit_files.segments(place).items():
            by_lane.setdefault(lane, {}).update({each.number: each for each in parts})
    return {lane: [parts[number] for number in sorted(parts)] for lane, parts in by_lane.items()}


def _walk(core: Core, lane: str, parts: list[Segment], expected: _Expected, read: Callable[[int], None]) -> Walker:
    archived = [each for (name, _), each in expected.starts.items() if name == lane]
    start: Head | None = Head(sequence=0, hash=audit_chain.genesis(core.installation.id, lane), segment=0)
    if parts and parts[0].number > 1:
        start = next((each for each in archived if each.segment == parts[0].number - 1), None)
    lost = start is None
    start = start or Head(sequence=0, hash="", segment=0)
    sealed = {at: digest for at, digest in expected.sealed.get(lane, {}).items() if at > start.sequence}
    walker = Walker(lane, start, sealed, expected.restarts.get(lane, set()))
    if lost:
        what = f"the files before {parts[0].path.name} are not here, and were not archived"
        walker.faults.append(Fault(lane=lane, sequence=1, kind=MISSING, detail=what))
    for part in parts:
        for length in walker.walk(audit_files.lines(part.path)):
            read(length)
    walker.finish()
    return walker


def _seal_faults(core: Core, sealer: Sealer, expected: _Expected) -> list[Fault]:
    """Go along the seals, each of which names the one before it, and compare the newest with the token's memory."""
    path = sealer.folder / audit_files.SEALS
    faults: list[Fault] = []
    number, previous = 0, ""
    for text in audit_files.lines(path) if path.exists() else ():
        line = audit_seal.read(text)
        number += 1
        if line is None:
            faults.append(_seal_fault(number, UNREADABLE, "the line is no seal"))
            previous = audit_seal.digest(text)
            continue
        if line.seal.previous != previous and not line.seal.restored:
            kind = CHANGED if line.seal.number == number else MISSING if line.seal.number > number else REORDERED
            words = f"seal {line.seal.number} does not follow the seal before it"
            faults.append(_seal_fault(min(number, line.seal.number), kind, words))
        number, previous = line.seal.number, line.digest
        expected.take(line)
    return faults + _against_the_token(core, sealer, expected.newest)


def _against_the_token(core: Core, sealer: Sealer, newest: SealedLine | None) -> list[Fault]:
    note = sealer.note()
    faults = [
        _seal_fault(newest.seal.number if newest is not None else 1, ROLLED_BACK, each)
        for each in sealer.left_contradictions()
    ]
    if newest is None:
        return faults + (
            [_seal_fault(1, MISSING, f"the token remembers seal {note.number}")] if note is not None else []
        )
    seal = newest.seal
    if not sealer.proves(newest.message, newest.mac, seal.key_version):
        faults.append(_seal_fault(seal.number, CHANGED, "the token did not make it"))
    if seal.installation != core.installation.id:
        faults.append(_seal_fault(seal.number, CHANGED, "it is of another installation"))
    if note is not None and note.number > seal.number:
        faults.append(_seal_fault(seal.number + 1, MISSING, f"the token remembers seal {note.number}"))
    elif note is not None and note.number == seal.number and note.digest != newest.digest:
        faults.append(_seal_fault(seal.number, CHANGED, "it is not the one that the token remembers"))
    with core.store.reading() as conn:
        epoch = changes.latest(conn)
    if epoch < seal.epoch:
        words = f"the control-plane database is at change {epoch}, and was at {seal.epoch} when this was sealed"
        faults.append(_seal_fault(seal.number, ROLLED_BACK, words))
    return faults


def _seal_fault(number: int, kind: str, detail: str) -> Fault:
    return Fault(lane=SEALS, sequence=number, kind=kind, detail=detail)
