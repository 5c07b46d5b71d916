"""Moving many ciphertexts: what is moved, what is left, which requests it takes, and a rotation in the middle."""

from collections.abc import Iterator

import pytest
from msgspec import Struct
from service_sites import Site, new_key, seal

from hsmkms.errors import HsmKmsError, InvalidCiphertextException, NotFoundException
from hsmkms.kms import Kms
from hsmkms.model.crypto import DecryptRequest
from hsmkms.model.enums import Operation
from hsmkms.model.rotation import RotateKeyOnDemandRequest
from hsmkms.service.operator.re_encryption import LONGEST, BackingKey, Moved, Mover, Survey, recognise
from hsmkms.service.pipeline import Call


@pytest.fixture
def opened(site: Site) -> Iterator[Kms]:
    """An open installation."""
    with site.open() as kms:
        yield kms


def needs(ciphertext: bytes) -> BackingKey:
    """The backing key of what is a ciphertext for sure."""
    recognised = recognise(ciphertext)
    assert recognised is not None
    return recognised


def mover(kms: Kms, key_id: str, *, dry_run: bool = False) -> Mover:
    """Moves to a key, without encryption contexts."""
    return Mover(kms, key_id, source_context={}, destination_context={}, dry_run=dry_run)


def test_recognise(opened: Kms) -> None:
    """A ciphertext is recognised by its header; one that is damaged there, cut, or too long is not."""
    made = new_key(opened)
    ciphertext = seal(opened, made.key_id)
    assert needs(ciphertext) == BackingKey(made.key_id, made.current_key_material_id or "")
    padding = bytes(LONGEST - len(ciphertext))
    assert recognise(ciphertext + padding) == needs(ciphertext)
    for other in (b"", b"hkms", b"?" + ciphertext[1:], ciphertext[:100], ciphertext + padding + b"?"):
        assert recognise(other) is None


def test_requests(opened: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is a DescribeKey or a ReEncrypt that is recorded; nothing that answers with a plaintext is asked."""
    old, new = new_key(opened), new_key(opened)
    asked: list[tuple[Operation, str | None]] = []

    def record(call: Call, request: Struct, response: Struct | None, error: HsmKmsError | None) -> None:
        del request, response
        asked.append((call.operation, type(error).__name__ if error is not None else None))

    ciphertexts = [seal(opened, old.key_id), seal(opened, new.key_id)]
    monkeypatch.setattr(opened._core, "write_audit_record", record)
    job = Mover(opened, new.key_id, source_context={}, destination_context={"a": "1"})
    moved = [job.move(ciphertext, needs(ciphertext)).ciphertext for ciphertext in ciphertexts]
    assert all(job.move(each, needs(each)) == Moved(current=True) for each in moved if each is not None)
    assert asked == [
        (Operation.DESCRIBE_KEY, None),
        (Operation.RE_ENCRYPT, "DryRunOperationException"),
        (Operation.RE_ENCRYPT, None),
        (Operation.RE_ENCRYPT, None),
        *[(Operation.RE_ENCRYPT, "InvalidCiphertextException"), (Operation.RE_ENCRYPT, "DryRunOperationException")] * 2,
    ]


def test_rotation_in_the_middle(opened: Kms) -> None:
    """If the destination rotates during the run, the next ciphertext shows it, and those moved before are old again."""
    old, new = new_key(opened), new_key(opened)
    job = mover(opened, new.key_id)
    sources = [seal(opened, old.key_id) for _ in range(2)]
    first = job.move(sources[0], needs(sources[0])).ciphertext
    assert first is not None
    assert job.is_current(needs(first))
    opened.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=new.key_id))
    second = job.move(sources[1], needs(sources[1])).ciphertext
    assert second is not None
    assert job.is_current(needs(second))
    assert not job.is_current(needs(first))
    third = job.move(first, needs(first)).ciphertext
    assert third is not None
    assert opened.decrypt(DecryptRequest(ciphertext_blob=third)).plaintext is not None


def test_dry_run_makes_nothing(opened: Kms) -> None:
    """A dry run says what would be moved, and raises for what could not."""
    old, new = new_key(opened), new_key(opened)
    ciphertext = seal(opened, old.key_id)
    job = mover(opened, new.key_id, dry_run=True)
    assert job.move(ciphertext, needs(ciphertext)) == Moved(current=False)
    with pytest.raises(InvalidCiphertextException):
        job.move(ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]), needs(ciphertext))


def test_survey(opened: Kms) -> None:
    """A survey compares with the current material of each ciphertext's own key; an unknown key's is not current."""
    made = new_key(opened)
    ciphertext = seal(opened, made.key_id)
    survey = Survey(opened)
    assert survey.move(ciphertext, needs(ciphertext)) == Moved(current=True)
    opened.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=made.key_id))
    assert Survey(opened).move(ciphertext, needs(ciphertext)) == Moved(current=False)
    assert not survey.is_current(BackingKey("11111111-2222-4333-8444-555555555555", "ab" * 32))


def test_destination_is_checked_first(opened: Kms) -> None:
    """A destination that is not there is refused before there is any ciphertext."""
    with pytest.raises(NotFoundException):
        mover(opened, "alias/nobody")
