"""Verify the audit logs of several nodes together: each by its own seals, and by those of all others.

A log is proven as its own node would prove it. Besides, it must reach every end that its node has published: what the
database knows now, and what the seals of other nodes have said of it. So a log that was shortened with its seals, or
that is missing altogether, is noticed as long as one other log or the database is right.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from hsmkms.errors import ObjectLostError, ValidationException
from hsmkms.model.audit import Fault, Head, Seal
from hsmkms.rules.audit.chain import CHANGED, MISSING, NOT_PROVEN
from hsmkms.service.audit import reading
from hsmkms.service.audit.node_heads import Known, acceptance_of
from hsmkms.service.audit.proven_seals import SealFile, seal_fault
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.audit.verification import Expected, LogFiles, Progress, Verdict, verify, walk
from hsmkms.service.runtime.core import Core
from hsmkms.store import audit_files, node_id

_NODE_DIGITS: Final = 8


class GatheredLog(Struct, frozen=True, kw_only=True):
    """One log of several that were verified. ``first``, ``last``: the times of its first and last record by time."""

    node: str
    name: str
    place: str
    records: int
    lanes: int
    seals: int
    unsealed: int
    first: str
    last: str


class GatheredVerdict(Verdict, frozen=True, kw_only=True):
    """Result of a verification of several logs: the figures are their sums, and lanes are named after their nodes."""

    nodes: list[GatheredLog]


class Gathering(Struct, frozen=True, kw_only=True):
    """Which logs are verified together with that of this node.

    ``folders``: data folders of other nodes, or copies of their folders `audit`. ``copied_at``: when the first of the
    copies was begun; what was published since then need not be in them. ``without``: ids of nodes whose logs are lost.
    """

    folders: Sequence[Path]
    copied_at: datetime | None = None
    without: Collection[str] = ()


class _End(Struct, frozen=True):
    """An end of a lane that a node has published. ``at``: when the database or a seal of another node had it."""

    acceptance: int
    head: Head
    at: datetime


class _Log(Struct, frozen=True):
    """Another node's log, with what its own seals say."""

    node_id: str
    folder: Path
    seals: SealFile
    expected: Expected

    @property
    def newest(self) -> Seal | None:
        """The newest seal that the token proves."""
        return self.expected.newest.seal if self.expected.newest is not None else None


Ends = dict[str, list[_End]]
"""What a node has published, by lane."""


def verify_together(core: Core, archives: Sequence[Path], gathering: Gathering, progress: Progress) -> GatheredVerdict:
    """Verify this node's log, and those of other nodes; ``archives``: folders with archived segments of this one."""
    sealer = Sealer(core)
    if not sealer.nodes.shared:
        raise ValidationException("This installation has one node: there are no logs of others to verify.")
    known = sealer.nodes.known()
    logs = _opened(sealer, gathering.folders, core.audit.node_id)
    own_seals = SealFile(sealer, sealer.folder, audit_files.size(sealer.folder / audit_files.SEALS))
    ends = _ends(known, [own_seals, *(each.seals for each in logs)])
    own = ends.get(core.audit.node_id, {})
    verdicts = {core.audit.node_id: verify(core, archives, progress, lambda log: _published(log, own))}
    for log in logs:
        verdicts[log.node_id] = _verify(core, sealer, log, ends.get(log.node_id, {}), gathering.copied_at, progress)
    missing = [
        _missing(known, node, lanes)
        for node, lanes in sorted(ends.items())
        if node not in verdicts and node not in gathering.without
    ]
    folders = {core.audit.node_id: sealer.folder} | {each.node_id: each.folder for each in logs}
    nodes = [_described(known, node, folders[node], verdict) for node, verdict in verdicts.items()]
    return _together(verdicts, nodes, missing)


def _opened(sealer: Sealer, folders: Sequence[Path], own: str) -> list[_Log]:
    """Open the logs in folders. ValidationException if one is no log, or of a node that there is already."""
    logs: dict[str, _Log] = {}
    for place in folders:
        inner = place / audit_files.FOLDER
        folder = inner if inner.is_dir() else place
        if not audit_files.segments(folder):
            raise ValidationException(
                f"{place} has no audit log: name a node's data folder, or a copy of its folder audit"
            )
        seals = SealFile(sealer, folder, audit_files.size(folder / audit_files.SEALS))
        log = _Log("", folder, seals, Expected(seals))
        log = replace(log, node_id=_node_of(log, place))
        if log.node_id == own or log.node_id in logs:
            raise ValidationException(f"{place} has the log of node {log.node_id}, which is verified already")
        logs[log.node_id] = log
    return list(logs.values())


def _node_of(log: _Log, place: Path) -> str:
    """Return the node of a log: by its newest proven seal, or else by the file beside it."""
    if log.newest is not None and log.newest.node is not UNSET:
        return log.newest.node
    named = node_id.read(place) or node_id.read(log.folder.parent)
    if named is None:
        raise ValidationException(
            f"{place} does not say whose log it is: the token proves none of its seals, so copy the file "
            f"{node_id.FILE} of that node beside it"
        )
    return named


def _ends(known: Known, logs: Iterable[SealFile]) -> dict[str, Ends]:
    """Return all ends that nodes have published, by the database and by proven seals."""
    ends: dict[str, Ends] = {}
    for seals in logs:
        for trusted in seals.trusted():
            seal = trusted.line.seal
            for node, lanes in ({} if seal.nodes is UNSET else seal.nodes).items():
                for lane, each in lanes.items():
                    of_lane = ends.setdefault(node, {}).setdefault(lane, [])
                    if not of_lane or of_lane[-1].head != each.head:
                        of_lane.append(_End(each.acceptance, each.head, seal.time))
    for (node, lane), published in known.proven.items():
        end = _End(published.acceptance, published.head, published.at)
        ends.setdefault(node, {}).setdefault(lane, []).append(end)
    return ends


def _verify(
    core: Core,
    sealer: Sealer,
    log: _Log,
    ends: Ends,
    copied_at: datetime | None,
    progress: Progress,
) -> Verdict:
    faults = [*log.seals.faults, *_against_the_note(core, sealer, log, copied_at)]
    wanted = {
        lane: [each for each in of_lane if copied_at is None or each.at <= copied_at] for lane, of_lane in ends.items()
    }
    newest = acceptance_of(log.newest)
    later = max((each.acceptance for of_lane in wanted.values() for each in of_lane), default=0)
    if later > newest:
        words = f"its node has sealed an acceptance with the number {later}, which is not here"
        faults.append(seal_fault(newest + 1, MISSING, words))
    last = log.seals.newest.seal.number if log.seals.newest is not None else 0
    files = LogFiles(log.node_id, audit_files.segments(log.folder), last)
    return walk(core, files, log.expected, _published(log.expected, wanted), faults, progress)


def _published(expected: Expected, ends: Ends) -> dict[str, dict[int, str]]:
    return {lane: _still_valid(expected, lane, of_lane) for lane, of_lane in ends.items()}


def _still_valid(expected: Expected, lane: str, ends: Iterable[_End]) -> dict[int, str]:
    """Return the hashes of published records that no later acceptance of the log has given up; the first one counts."""
    hashes: dict[int, str] = {}
    for end in ends:
        given_up = any(
            accepted.number > end.acceptance
            and end.head.sequence > (accepted.lanes[lane].head.sequence if lane in accepted.lanes else 0)
            for accepted in expected.acceptances
        )
        if end.head.sequence and not given_up:
            hashes.setdefault(end.head.sequence, end.head.hash)
    return hashes


def _against_the_note(core: Core, sealer: Sealer, log: _Log, copied_at: datetime | None) -> list[Fault]:
    """Compare the newest seal with the note of that node's newest seal, which a copy may be older than."""
    last = log.seals.newest
    number = last.seal.number if last is not None else 0
    if last is not None and last.seal.installation != core.installation.id:
        return [seal_fault(number, CHANGED, "it is of another installation")]
    try:
        note = sealer.notes.newest_of_node(log.node_id)
    except ObjectLostError as exc:
        return [seal_fault(number, NOT_PROVEN, f"what the token remembers of it cannot be proven: {exc}")]
    if note is None:
        return []
    if note.number > number and copied_at is None:
        words = f"the token remembers seal {note.number}, unless this is a copy from before (--copied-at)"
        return [seal_fault(number + 1, MISSING, words)]
    if last is not None and note.number == number and note.digest != last.digest:
        return [seal_fault(number, CHANGED, "it is not the one that the token remembers")]
    return []


def _missing(known: Known, node: str, lanes: Ends) -> Fault:
    """Return the fault of a log that is not among the folders."""
    newest = {lane: max((each.acceptance, each.head.sequence) for each in ends)[1] for lane, ends in lanes.items()}
    words = f"the audit log of {known.name(node)}, with at least {sum(newest.values())} records, is not here: name its"
    detail = f"{words} folder by --gather, or leave it out by --without if it is lost"
    return Fault(lane=node[:_NODE_DIGITS], sequence=1, kind=NOT_PROVEN, detail=detail)


def _described(known: Known, node: str, folder: Path, verdict: Verdict) -> GatheredLog:
    first, last = reading.time_span(folder)
    return GatheredLog(
        node=node,
        name=known.name(node),
        place=str(folder),
        records=verdict.records,
        lanes=verdict.lanes,
        seals=verdict.seals,
        unsealed=verdict.unsealed,
        first=first,
        last=last,
    )


def _together(verdicts: dict[str, Verdict], nodes: list[GatheredLog], missing: list[Fault]) -> GatheredVerdict:
    def named(kind: str) -> list[Fault]:
        return [
            replace(fault, lane=fault.lane if "/" in fault.lane else f"{node[:_NODE_DIGITS]}/{fault.lane}")
            for node, verdict in verdicts.items()
            for fault in getattr(verdict, kind)
        ]

    def total(figure: str) -> int:
        return sum(getattr(verdict, figure) for verdict in verdicts.values())

    return GatheredVerdict(
        records=total("records"),
        lanes=total("lanes"),
        seals=total("seals"),
        unsealed=total("unsealed"),
        archived=total("archived"),
        faults=named("faults"),
        unproven=[*named("unproven"), *missing],
        accepted=named("accepted"),
        nodes=nodes,
    )
