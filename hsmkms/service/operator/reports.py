"""Make reports for auditors, sign them on the token, and verify them later.

A signed report proves itself by the signature, with the public key alone. Besides, the audit log records the digest of
every report, so that the installation can verify one whose key is gone, or which was made without a signature.
"""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.errors import KMSInvalidSignatureException, UnsupportedOperationException
from hsmkms.service.audit import reading
from hsmkms.service.audit.reading import Recorded
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.audit.verification import Progress, verify
from hsmkms.service.keys import report_keys
from hsmkms.service.keys.report_keys import ReportKey
from hsmkms.service.operator import report_facts
from hsmkms.service.operator.report_facts import ReportFacts
from hsmkms.service.runtime.core import Core

EVENT: Final = "CreateReport"


class Proof(Struct, frozen=True, kw_only=True):
    """What proves a report: a ``key`` on a token, or else a record of the audit log (its id and time).

    ``note``: why no signature was verified although there is one.
    """

    key: ReportKey | None = None
    event_id: str | None = None
    event_time: str | None = None
    note: str | None = None


class Reports:
    """Reports of an open installation. Get it as ``kms.operator.reports``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def collect(self, region: str | None, archives: Sequence[Path], advance: Progress) -> ReportFacts:
        """Collect the content of a report; ``advance`` is called as the audit log is verified."""
        return report_facts.collect(self._core, region, archives, advance)

    def key(self) -> ReportKey:
        """Return the key that signs reports now; created at its first use. UnsupportedOperationException."""
        return report_keys.describe(self._core, report_keys.signing_key(self._core))

    def available_keys(self) -> list[ReportKey]:
        """Return all keys for reports that are on tokens now, the newest first."""
        return list(report_keys.available(self._core))

    def sign(self, document: bytes, key: ReportKey) -> bytes:
        """Sign a report by the key that it names, and record it. UnsupportedOperationException if that was rotated."""
        digest = hashlib.sha256(document).hexdigest()
        with self._acting({"sha256": digest, "signedBy": key.fingerprint, "keyVersion": key.version}):
            row = report_keys.signing_key(self._core)
            if row.version != key.version:
                raise UnsupportedOperationException(
                    "The key for reports was rotated while this report was made: make it again."
                )
            return report_keys.sign(self._core, row, document)

    def record_unsigned(self, document: bytes) -> None:
        """Record a report that is not signed."""
        with self._acting({"sha256": hashlib.sha256(document).hexdigest()}):
            pass

    def verify(self, document: bytes, signature: bytes | None, archives: Sequence[Path], advance: Progress) -> Proof:
        """Verify a report by the keys on the tokens, else by the audit log. KMSInvalidSignatureException."""
        note = None
        if signature is not None:
            known = self.available_keys()
            for each in known:
                if report_keys.verifies(report_keys.read_public_key(each.public_key), document, signature):
                    return Proof(key=each)
            names = ", ".join(each.fingerprint for each in known) or "none"
            away = report_keys.count(self._core) - len(known)
            note = f"no key for reports on a token of this installation made the signature (there: {names})"
            note += f"; {away} of its keys cannot be read now" if away else ""
        recorded = self._recorded(hashlib.sha256(document).hexdigest(), archives)
        if recorded is None:
            raise KMSInvalidSignatureException(
                f"The report is not proven: {note or 'it has no signature'}, and the audit log has no report with this "
                "content. It was changed, or another installation made it, or files of the log were archived "
                "(--archive DIR), or the signature is in another file (--signature)."
            )
        self._require_sealed(recorded, archives, advance)
        return Proof(event_id=recorded.record["eventID"], event_time=recorded.record["eventTime"], note=note)

    def _recorded(self, digest: str, archives: Sequence[Path]) -> Recorded | None:
        self._core.audit.flush()
        return reading.find_event((self._core.audit.folder, *archives), EVENT, {"sha256": digest})

    def _require_sealed(self, recorded: Recorded, archives: Sequence[Path], advance: Progress) -> None:
        """Raise unless the log verifies, and a seal by the token covers the record: anyone could append one."""
        verdict = verify(self._core, archives, advance)
        if verdict.faults or verdict.unproven:
            raise KMSInvalidSignatureException(
                "The audit log has a record of this report, but the log is not proven: see `hsmkms audit verify`."
            )
        last = Sealer(self._core).last()
        lane = last.seal.lanes.get(recorded.lane) if last is not None else None
        if lane is None or lane.head.sequence < recorded.sequence:
            raise KMSInvalidSignatureException(
                "The audit log has a record of this report, but no seal covers it yet: try again in a minute."
            )

    def _acting(self, details: dict[str, str | int]) -> AbstractContextManager[None]:
        return self._core.audit.acting(EVENT, self._core.installation.default_region, details)


__all__ = ["Proof", "ReportFacts", "ReportKey", "Reports"]
