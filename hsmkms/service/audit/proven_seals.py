"""Determine which seals of the audit log are proven by the token, and the faults of the others.

Each seal names the one before it, and hsmkms verifies that one before it makes the next: so a seal whose MAC is
verified proves all before it, as far back as the chain of seals is unbroken. An acceptance proves nothing before it,
since it was made regardless of the state before. So the chain is split into runs: a new one begins with every
acceptance, and with every seal that does not follow the one before it. Of each run the last seal is verified; if that
fails, a binary search finds the last one that verifies, and seals after it do not count. The MAC of every acceptance is
verified as well.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.model.audit import Fault
from hsmkms.rules.audit import seal as audit_seal
from hsmkms.rules.audit.chain import CHANGED, MISSING, NOT_PROVEN, REORDERED, UNREADABLE, name
from hsmkms.rules.audit.seal import SealedLine
from hsmkms.service.audit.sealing import Proof, Sealer
from hsmkms.store import audit_files

SEALS: Final = "seals"
"""Used as the lane's name in faults of the seals themselves."""

MAX_PROOFS: Final = 2_000
"""Limit of token calls for one verification: a file of forged seals must not keep the token busy for hours."""


class Trusted(Struct, frozen=True):
    """A proven seal. ``accepts``: it is a proven acceptance, so that the faults which it accepts are accepted."""

    line: SealedLine
    accepts: bool


class _Run(Struct):
    """Consecutive seals: the first one's index in the file, and the index after the last."""

    first: int
    end: int
    trusted: int = 0
    """The index after the last proven seal."""

    accepts: bool = False


class SealFile:
    """Verifies the file of seals. ``newest``: the last seal, proven or not; ``faults``: the seals' faults.

    ``folder``: the log's. ``end``: how many bytes of the file are read; other processes may append meanwhile.
    """

    def __init__(self, sealer: Sealer, folder: Path, end: int) -> None:
        self.faults: list[Fault] = []
        self.newest: SealedLine | None = None
        self._sealer = sealer
        self._path = folder / audit_files.SEALS
        self._end = end
        self._offsets = array("Q")
        self._proofs_left = MAX_PROOFS
        self._runs = self._split()
        for run in self._runs:
            self._prove(run)

    def trusted(self) -> Iterator[Trusted]:
        """Yield the proven seals, oldest first."""
        runs = iter(self._runs)
        run = next(runs, None)
        for index, text in enumerate(self._lines()):
            while run is not None and index >= run.end:
                run = next(runs, None)
            if run is None or index >= run.trusted:
                continue
            line = audit_seal.read(text)
            if line is not None:
                yield Trusted(line, accepts=index == run.first and run.accepts)

    # -- the chain ----------------------------------------------------------------------------------------------

    def _split(self) -> list[_Run]:
        """Split the chain into runs, recording each break as a fault."""
        runs: list[_Run] = []
        number, before, offset = 0, "", 0
        readable = False
        for index, text in enumerate(self._lines()):
            self._offsets.append(offset)
            offset += len(text)
            line = audit_seal.read(text)
            number += 1
            if line is None:
                self._add(number, UNREADABLE, f"the line is no seal ({name(text)})")
                before, readable = audit_seal.digest(text), False
                continue
            follows = line.seal.previous == before
            if not follows:
                self._break(line, number, before)
            if follows and readable and not line.seal.restored:
                runs[-1].end = index + 1
            else:
                runs.append(_Run(index, index + 1))
            number, before, readable, self.newest = line.seal.number, line.digest, True, line
        return runs

    def _break(self, line: SealedLine, due: int, before: str) -> None:
        number = line.seal.number
        kind = CHANGED if number == due else MISSING if number > due else REORDERED
        words = f"seal {number} (SHA-256 {line.digest}) does not follow the seal before it (SHA-256 {before or 'none'})"
        self._add(min(due, number), kind, words)

    # -- the token ----------------------------------------------------------------------------------------------

    def _prove(self, run: _Run) -> None:
        """Determine how far a run is proven, and whether the acceptance at its beginning is."""
        head, proof = self._line(run.first), self._ask(run.end - 1)
        run.trusted = run.end if proof is Proof.PROVEN else self._last_proven(run)
        if run.trusted < run.end:
            self._add_unproven(self._line(run.trusted), proof)
        if not head.seal.restored:
            return
        proof = self._ask(run.first)
        run.accepts = proof is Proof.PROVEN
        if not run.accepts and run.trusted > run.first:
            self._add_unproven(head, proof)

    def _last_proven(self, run: _Run) -> int:
        """Return the index after a run's last proven seal, by binary search: all before a proven one are proven."""
        low, high = run.first, run.end - 1
        while low < high:
            middle = (low + high) // 2
            if self._ask(middle) is Proof.PROVEN:
                low = middle + 1
            else:
                high = middle
        return low

    def _ask(self, index: int) -> Proof:
        if self._proofs_left <= 0:
            return Proof.UNKNOWN
        self._proofs_left -= 1
        return self._sealer.prove(self._line(index))

    def _add_unproven(self, line: SealedLine, proof: Proof) -> None:
        seal = line.seal
        what = "accepts nothing" if seal.restored else "proves nothing"
        if proof is Proof.REFUTED:
            words = f"the token did not make it, so that it {what} (SHA-256 {line.digest})"
            self._add(seal.number, CHANGED, words)
            return
        words = (
            f"the token cannot verify whether it made it, so that it {what}: version {seal.key_version} of the key "
            f"that seals the log is not available (SHA-256 {line.digest})"
        )
        self._add(seal.number, NOT_PROVEN, words)

    def _lines(self) -> Iterator[bytes]:
        left = self._end
        for text in audit_files.lines(self._path) if left else ():
            left -= len(text)
            if left < 0:
                return
            yield text

    def _line(self, index: int) -> SealedLine:
        line = audit_seal.read(audit_files.line_at(self._path, self._offsets[index]))
        if line is None:
            raise audit_files.unwritable(self._path, OSError(0, "it was changed while it was read"))
        return line

    def _add(self, number: int, kind: str, detail: str) -> None:
        self.faults.append(seal_fault(number, kind, detail))


def seal_fault(number: int, kind: str, detail: str) -> Fault:
    """Return a fault of the seals themselves."""
    return Fault(lane=SEALS, sequence=number, kind=kind, detail=detail)
