"""Encode and verify the lines of the audit log, which form a hash chain.

A line is a JSON object. ``hash`` is SHA-256 over the hash of the previous line and over everything after it in its own
line, so a record that is changed, removed, inserted or moved breaks the chain there. A chain belongs to a *lane*: one
process at a time writes to it, and the next writer continues where it ended.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from hsmkms.model.audit import Fault, Head

_HASH: Final = b'{"hash":"'
_BODY: Final = len(_HASH) + 64 + 2
"""Offset in a line at which the hashed part begins."""

_GENESIS: Final = b"hsmkms audit chain v1"
MAX_FAULTS: Final = 100
"""Limit of faults listed one by one per lane; further ones are summed up in one more fault."""

CHANGED: Final = "changed"
MISSING: Final = "missing"
INSERTED: Final = "inserted"
REORDERED: Final = "reordered"
UNREADABLE: Final = "unreadable"
ROLLED_BACK: Final = "rolled back"
RESEALED: Final = "not as sealed"
NOT_PROVEN: Final = "not proven"
"""Not proven wrong, but not provable by the token either."""


class Numbers(Struct, frozen=True):
    """The fields of a line besides its record."""

    sequence: int
    epoch: int
    hash: str = ""


_decode_numbers: Final = msgspec.json.Decoder(Numbers).decode


def genesis(installation_id: str, lane: str, node_id: str = "") -> str:
    """Return the hash before the first record of a lane, unique to the lane, its node and the installation."""
    parts = (_GENESIS, installation_id.encode(), lane.encode(), *([node_id.encode()] if node_id else []))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def beginning(installation_id: str, lane: str, node_id: str, first_line: bytes) -> str:
    """Return the hash before the first record of a lane: without the node's id if the lane began before it had one."""
    before = genesis(installation_id, lane)
    if node_id and follows(before, first_line):
        return before
    return genesis(installation_id, lane, node_id)


def link(previous: str, lane: str, sequence: int, epoch: int, record: bytes) -> tuple[str, bytes]:
    """Return the hash of a lane's next line, and the line with its line feed. ``record`` is JSON in one line."""
    digest, (line,) = extend(previous, lane, sequence, epoch, [record])
    return digest, line


def extend(previous: str, lane: str, sequence: int, epoch: int, records: list[bytes]) -> tuple[str, list[bytes]]:
    """Return the hash of the last of a lane's next lines, and the lines; the first has number ``sequence``."""
    start, middle = b'"lane":"%b","sequence":' % lane.encode(), b',"epoch":%d,"record":' % epoch
    digest, lines = previous, []
    for number, record in enumerate(records, start=sequence):
        body = b"%b%d%b%b}" % (start, number, middle, record)
        digest = hashlib.sha256(digest.encode() + body).hexdigest()
        lines.append(b'%b%b",%b\n' % (_HASH, digest.encode(), body))
    return digest, lines


def _digest(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()


def follows(previous: str, line: bytes) -> bool:
    """Return True if the hash of a line is right after a record with the hash ``previous``."""
    return _digest(previous, line[_BODY:-1]) == _stated(line)


def _stated(line: bytes) -> str:
    return line[len(_HASH) : len(_HASH) + 64].decode("ascii", "replace")


def record_of(line: bytes) -> bytes:
    """Return the record of a line as it was written; b"" if it is not a line of the log."""
    head, separator, record = line.rstrip(b"\n").partition(b',"record":')
    return record[:-1] if separator and head.startswith(_HASH) else b""


def head_of(line: bytes, segment: int) -> Head | None:
    """Return the sequence and hash stated in a line, not verified; None if it is not a line of the log."""
    try:
        numbers = _decode_numbers(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Head(sequence=numbers.sequence, hash=numbers.hash, segment=segment)


def name(line: bytes) -> str:
    """Return a unique name of a faulty line, so that accepting it does not accept a later change of it."""
    return f"SHA-256 {hashlib.sha256(line).hexdigest()}"


class Walker:
    """Verifies the lines of a lane from a known position on, and collects faults.

    ``sealed``: sealed hashes by sequence; ``published``: those that the node has published; ``restarts``: sequences
    after which the operator has accepted an older database. After a fault it continues from the line's own statements,
    so that later lines are verified as well.
    """

    def __init__(
        self,
        lane: str,
        start: Head,
        sealed: dict[int, str],
        restarts: set[int],
        published: dict[int, str] | None = None,
    ) -> None:
        self.lane = lane
        self.start = start
        self.faults: list[Fault] = []
        self.records = 0
        self.sequence = start.sequence
        self._previous = start.hash
        self._sealed = sealed
        self._published = published or {}
        self._restarts = restarts
        self._sealed_well = start.sequence
        self._epoch = 0
        self._beyond = 0
        self._beyond_first: Fault | None = None
        self._beyond_digest = hashlib.sha256()

    def walk(self, lines: Iterable[bytes]) -> Iterator[int]:
        """Verify lines; yield the length of each."""
        for line in lines:
            self._judge(line)
            yield len(line)

    def finish(self) -> None:
        """Finish after the last line: add a fault for sealed or published records that are missing."""
        first = self.sequence + 1
        sealed, published = (max(known, default=0) for known in (self._sealed, self._published))
        if sealed >= first:
            self._add(first, MISSING, f"records {first} to {sealed} were sealed, and are not there any more")
        if published > max(sealed, self.sequence):
            first = max(sealed, self.sequence) + 1
            words = f"records {first} to {published} were published by their node, and are not there any more"
            self._add(first, MISSING, words)
        if self._beyond_first is not None:
            words = f"and {self._beyond} more faults from here on (SHA-256 {self._beyond_digest.hexdigest()})"
            self.faults.append(msgspec.structs.replace(self._beyond_first, detail=words))

    def _judge(self, line: bytes) -> None:
        self.records += 1
        digest = _digest(self._previous, line[_BODY:-1])
        stated = _stated(line)
        try:
            numbers = _decode_numbers(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._add(self.sequence + 1, UNREADABLE, f"the line is no record ({name(line)})")
            self._go_on(self.sequence + 1, stated)
            return
        expected = self.sequence + 1
        if digest != stated or numbers.sequence != expected or not line.startswith(_HASH):
            self._break(expected, numbers.sequence, name(line))
        elif numbers.epoch < self._epoch:
            detail = f"the control-plane database went back from change {self._epoch} to {numbers.epoch}"
            self._add(numbers.sequence, ROLLED_BACK, detail)
        self._epoch = 0 if numbers.sequence in self._restarts else numbers.epoch
        self._go_on(numbers.sequence, stated)

    def _break(self, expected: int, actual: int, line: str) -> None:
        # Each fault names its line, so that the operator's acceptance covers only that line.
        if actual == expected:
            self._add(expected, CHANGED, f"it is not what was written after the record before it ({line})")
        elif actual > expected:
            self._add(expected, MISSING, f"record {actual} follows record {expected - 1} ({line})")
        elif self.faults and self.faults[-1].kind == MISSING and self.faults[-1].sequence == actual:
            self._add(actual, REORDERED, f"it stands behind a later record ({line})")
        else:
            self._add(actual, INSERTED, f"a second record {actual} stands where {expected} was due ({line})")

    def _go_on(self, sequence: int, stated: str) -> None:
        self.sequence, self._previous = sequence, stated
        if self._published.get(sequence, stated) != stated:
            words = f"it is not the record that its node has published (its hash is {stated})"
            self._add(sequence, CHANGED, words)
        wanted = self._sealed.get(sequence)
        if wanted is None:
            return
        if wanted != stated:
            first = self._sealed_well + 1
            words = f"records {first} to {sequence} are not those that were sealed (the last one's hash is {stated})"
            self._add(first, RESEALED, words)
        self._sealed_well = sequence

    def _add(self, sequence: int, kind: str, detail: str) -> None:
        fault = Fault(lane=self.lane, sequence=sequence, kind=kind, detail=detail)
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)
            return
        self._beyond += 1
        self._beyond_first = self._beyond_first or fault
        self._beyond_digest.update(msgspec.json.encode(fault))
