"""Another process seals between any two reads of a check of the audit log: that is no contradiction."""

from collections.abc import Callable

import pytest
from service_sites import REGION, Site, new_key

from hsmkms import process
from hsmkms.kms import Kms
from hsmkms.service.audit import verification as audit_verification
from hsmkms.service.audit.proven_seals import SealFile
from hsmkms.service.audit.seal_notes import SealNotes
from hsmkms.service.audit.sealing import Contradiction, Sealer
from hsmkms.store import audit_files


def sealed_anew(kms: Kms) -> bool:
    """Seal another record as another process does: not while the lock of the seals is taken."""
    if kms.operator.audit.folder / audit_files.SEAL_LOCK in process._held.locks:
        return False
    kms.operator.audit.log.event("Another", REGION, "", {})
    kms.operator.audit.log.tidy()
    assert Sealer(kms._core).seal()
    return True


def check(kms: Kms) -> None:
    """What doctor and restore ask."""
    kms.operator.audit.check()


def check_unproven(kms: Kms) -> None:
    """What the loss of installation keys is judged by."""
    assert Sealer(kms._core).unproven_contradiction() is None


def verify(kms: Kms) -> None:
    """What `audit verify` asks."""
    verdict = kms.operator.audit.verify()
    assert (verdict.faults, verdict.unproven) == ([], [])


POINTS = [
    (Sealer, "last"),
    (SealNotes, "every"),
    (SealNotes, "older"),
    (SealNotes, "remembers"),
    (SealNotes, "_read_on"),
    (Sealer, "_heads"),
    (Sealer, "prove"),
    (SealFile, "trusted"),
    (audit_verification, "_against_the_database"),
    (audit_files, "merged"),
    (audit_files, "last_line"),
]


@pytest.mark.parametrize("look", [check, check_unproven, verify])
def test_no_false_alarm(site: Site, look: Callable[[Kms], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever read another process's seal precedes, log, notes and database are compared as of one instant."""
    with site.open() as kms:
        new_key(kms)
        assert sealed_anew(kms)
        sealed = 0
        for owner, name in POINTS:
            with monkeypatch.context() as patch:
                original, begun = getattr(owner, name), list[bool]()

                def between(
                    *given: object, original: Callable[..., object] = original, begun: list[bool] = begun
                ) -> object:
                    if not begun:
                        begun.append(True)
                        begun.append(sealed_anew(kms))
                    return original(*given)

                patch.setattr(owner, name, between)
                look(kms)
                sealed += any(begun[1:])
        assert sealed > 1


@pytest.mark.parametrize("look", [check, verify])
def test_a_contradiction_stays_one(site: Site, look: Callable[[Kms], None]) -> None:
    """What was cut off is reported as before."""
    with site.open() as kms:
        new_key(kms)
        assert sealed_anew(kms)
        assert sealed_anew(kms)
        seals = kms.operator.audit.folder / audit_files.SEALS
        seals.write_bytes(b"".join(seals.read_bytes().splitlines(keepends=True)[:-1]))
        with pytest.raises((Contradiction, AssertionError), match="remembers"):
            look(kms)
