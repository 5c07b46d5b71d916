"""Deletion: the waiting period, cancelling, and the end. Source: AWS KMS Developer Guide, "Deleting AWS KMS keys"."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from lifecycle import (
    DELETION,
    DESTRUCTION,
    DONE,
    HELD,
    MATERIAL,
    away,
    backing_keys,
    cancel,
    delete_material,
    described,
    disable,
    enable,
    epoch,
    named_by,
    new_empty_key,
    new_imported_key,
    parameters_for,
    record_of,
    rotate,
    rotations,
    schedule,
    status_of,
    sweep,
    switch_off,
    switch_on,
)
from msgspec.structs import replace
from service_sites import REGION, START, Site, StoppedClock, mac_key, new_alias, new_key, seal, unseal
from sqlalchemy import func, select

from hsmkms.errors import (
    AccessDeniedException,
    DisabledException,
    InvalidCiphertextException,
    KMSInvalidStateException,
    NotFoundException,
    ValidationException,
)
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.objects import generate
from hsmkms.kms import Kms
from hsmkms.model.aliases import CreateAliasRequest, DeleteAliasRequest, ListAliasesRequest, UpdateAliasRequest
from hsmkms.model.crypto import (
    GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest,
    ReEncryptRequest,
)
from hsmkms.model.deletion import GetKeyLastUsageRequest, ScheduleKeyDeletionRequest
from hsmkms.model.keys import ListKeysRequest, UpdateKeyDescriptionRequest
from hsmkms.model.permit import Permit
from hsmkms.model.shapes import Tag
from hsmkms.model.tags import ListResourceTagsRequest, TagResourceRequest, UntagResourceRequest
from hsmkms.rules import blob
from hsmkms.rules.material import object_label
from hsmkms.service.keys import destruction
from hsmkms.service.operations import deletion
from hsmkms.service.operator.reconcile import Kind
from hsmkms.store import keys
from hsmkms.store.schema import alias, regional_key, rotation, tag
from hsmkms.store.statuses import Lifecycle, ObjectPurpose

Act = Callable[[Kms, str], object]
SECOND = timedelta(seconds=1)
TAG = Tag(tag_key="team", tag_value="red")


@pytest.fixture
def kms(site: Site, clock: StoppedClock) -> Iterator[Kms]:
    """A fresh installation with a clock that moves only on demand."""
    with site.open(clock) as opened:
        yield opened


# -- the waiting period ---------------------------------------------------------------------------------------------


def test_windows_out_of_bounds(kms: Kms) -> None:
    """A waiting period outside 7 to 30 days is a ValidationException, and the key works on."""
    key_id = new_key(kms).key_id
    before = epoch(kms)
    for days in (0, 1, 6, 31, 365, 366):
        with pytest.raises(ValidationException):
            schedule(kms, key_id, days)
    assert epoch(kms) == before
    assert unseal(kms, seal(kms, key_id)) == b"secret"


@pytest.mark.parametrize(("asked", "days"), [(7, 7), (12, 12), (30, 30), (None, 30)])
def test_what_scheduling_answers(kms: Kms, asked: int | None, days: int) -> None:
    """ARN, date, state and window; and DescribeKey shows the date while the key waits, and no longer."""
    made = new_key(kms)
    assert made.deletion_date is None
    answer = kms.schedule_key_deletion(ScheduleKeyDeletionRequest(key_id=made.key_id, pending_window_in_days=asked))
    due = START + timedelta(days=days)
    assert (answer.key_id, answer.deletion_date) == (made.arn, due)
    assert (answer.key_state, answer.pending_window_in_days) == ("PendingDeletion", days)
    shown = described(kms, made.key_id)
    assert (shown.key_state, shown.enabled, shown.deletion_date) == ("PendingDeletion", False, due)
    cancel(kms, made.arn)
    assert described(kms, made.key_id).deletion_date is None


def test_refused_everywhere_at_once(site: Site, clock: StoppedClock) -> None:
    """A process that has the key in its cache refuses it at its next call."""
    with site.open(clock) as here, site.open(clock) as there:
        key_id = new_key(here).key_id
        sealed = seal(there, key_id)
        schedule(here, key_id)
        for call in (lambda: seal(there, key_id), lambda: unseal(there, sealed)):
            with pytest.raises(KMSInvalidStateException, match="pending deletion"):
                call()


def data_key(kms: Kms, key_id: str) -> object:
    """Make a data key."""
    return kms.generate_data_key(GenerateDataKeyRequest(key_id=key_id, key_spec="AES_256"))


REFUSED: dict[str, Act] = {
    "EnableKey": enable,
    "DisableKey": disable,
    "ScheduleKeyDeletion": schedule,
    "EnableKeyRotation": switch_on,
    "DisableKeyRotation": switch_off,
    "RotateKeyOnDemand": rotate,
    "Encrypt": seal,
    "GenerateDataKey": data_key,
    "GenerateDataKeyWithoutPlaintext": lambda kms, key_id: kms.generate_data_key_without_plaintext(
        GenerateDataKeyWithoutPlaintextRequest(key_id=key_id, key_spec="AES_256")
    ),
    "ReEncrypt to it": lambda kms, key_id: kms.re_encrypt(
        ReEncryptRequest(ciphertext_blob=seal(kms, new_key(kms).key_id), destination_key_id=key_id)
    ),
    "CreateAlias": lambda kms, key_id: new_alias(kms, "alias/second", key_id),
    "TagResource": lambda kms, key_id: kms.tag_resource(TagResourceRequest(key_id=key_id, tags=[TAG])),
    "UntagResource": lambda kms, key_id: kms.untag_resource(UntagResourceRequest(key_id=key_id, tag_keys=["team"])),
    "UpdateKeyDescription": lambda kms, key_id: kms.update_key_description(
        UpdateKeyDescriptionRequest(key_id=key_id, description="new")
    ),
}
"""What a key that waits for its end refuses."""


def test_refused_while_pending(kms: Kms) -> None:
    """Each is a KMSInvalidStateException, and the key stays as it was."""
    key_id = new_key(kms, tags=[TAG]).key_id
    schedule(kms, key_id)
    before = record_of(kms, key_id)
    for operation, act in REFUSED.items():
        with pytest.raises(KMSInvalidStateException, match="is pending deletion"):
            act(kms, key_id)
        assert record_of(kms, key_id) == before, operation


def test_ciphertext_and_alias_of_a_pending_key(kms: Kms) -> None:
    """Its ciphertext is refused, and no alias can be moved to it, while its own may move away."""
    key_id, other = new_key(kms).key_id, new_key(kms).key_id
    sealed = seal(kms, key_id)
    new_alias(kms, "alias/old", key_id)
    new_alias(kms, "alias/other", other)
    schedule(kms, key_id)
    for call in (
        lambda: unseal(kms, sealed),
        lambda: kms.re_encrypt(ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=other)),
        lambda: seal(kms, "alias/old"),
        lambda: kms.update_alias(UpdateAliasRequest(alias_name="alias/other", target_key_id=key_id)),
    ):
        with pytest.raises(KMSInvalidStateException, match="pending deletion"):
            call()
    kms.update_alias(UpdateAliasRequest(alias_name="alias/old", target_key_id=other))
    assert unseal(kms, seal(kms, "alias/old")) == b"secret"


def test_allowed_while_pending(kms: Kms) -> None:
    """It can be described and listed, in every way, and lose its aliases."""
    made = new_key(kms, tags=[TAG])
    new_alias(kms, "alias/of-it", made.key_id)
    schedule(kms, made.key_id)
    assert described(kms, "alias/of-it").key_id == made.key_id
    assert [key.key_id for key in kms.list_keys(ListKeysRequest()).keys] == [made.key_id]
    assert [alias.target_key_id for alias in kms.list_aliases(ListAliasesRequest(key_id=made.key_id)).aliases] == [
        made.key_id
    ]
    assert kms.list_resource_tags(ListResourceTagsRequest(key_id=made.key_id)).tags == [TAG]
    assert rotations(kms, made.key_id) == []
    assert not status_of(kms, made.key_id).key_rotation_enabled
    assert kms.get_key_last_usage(GetKeyLastUsageRequest(key_id=made.key_id)).key_id == made.arn
    kms.delete_alias(DeleteAliasRequest(alias_name="alias/of-it"))
    assert kms.list_aliases(ListAliasesRequest(key_id=made.key_id)).aliases == []


def test_imported_material_of_a_pending_key(kms: Kms) -> None:
    """Its material can be deleted and none comes in, and the state stays."""
    key_id = new_imported_key(kms)
    schedule(kms, key_id)
    with pytest.raises(KMSInvalidStateException, match="pending deletion"):
        parameters_for(kms, key_id)
    delete_material(kms, key_id)
    assert described(kms, key_id).key_state == "PendingDeletion"
    assert backing_keys(kms) == {}
    cancel(kms, key_id)
    assert described(kms, key_id).key_state == "PendingImport"


@pytest.mark.parametrize("state", ["Enabled", "Disabled", "PendingImport"])
def test_every_state_may_be_scheduled(kms: Kms, state: str) -> None:
    """A key in any state may be scheduled, and is Disabled after cancelling, or waits for its material again."""
    key_id = new_empty_key(kms) if state == "PendingImport" else new_key(kms).key_id
    if state == "Disabled":
        disable(kms, key_id)
    assert described(kms, key_id).key_state == state
    schedule(kms, key_id, 7)
    assert described(kms, key_id).key_state == "PendingDeletion"
    cancel(kms, key_id)
    assert described(kms, key_id).key_state == ("PendingImport" if state == "PendingImport" else "Disabled")


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_cancelled(kms: Kms, clock: StoppedClock) -> None:
    """After cancelling everything but the state is as before, and enabling is a separate step."""
    made = new_key(kms, description="payroll", tags=[TAG])
    new_alias(kms, "alias/payroll", made.key_id)
    switch_on(kms, made.key_id)
    rotate(kms, made.key_id)
    before, sealed, status = described(kms, made.key_id), seal(kms, made.key_id), status_of(kms, made.key_id)
    due = schedule(kms, made.key_id, 7)
    clock.now = due - SECOND
    assert sweep(kms) == []
    answer_epoch = epoch(kms)
    cancel(kms, made.key_id)
    assert epoch(kms) > answer_epoch
    assert described(kms, "alias/payroll") == replace(before, key_state="Disabled", enabled=False)
    assert status_of(kms, made.key_id) == status
    assert kms.list_resource_tags(ListResourceTagsRequest(key_id=made.key_id)).tags == [TAG]
    with pytest.raises(DisabledException):
        unseal(kms, sealed)
    clock.advance(days=100)
    assert sweep(kms) == []
    enable(kms, made.key_id)
    assert unseal(kms, sealed) == b"secret"


@pytest.mark.parametrize("prepare", [lambda *_: None, disable])
def test_nothing_to_cancel(kms: Kms, prepare: Act) -> None:
    """Cancelling on a key that is not pending deletion is a KMSInvalidStateException."""
    made = new_key(kms)
    prepare(kms, made.key_id)
    with pytest.raises(KMSInvalidStateException, match=f"{made.arn} is not pending deletion"):
        cancel(kms, made.key_id)


def test_cancelled_in_the_last_moment(kms: Kms, clock: StoppedClock) -> None:
    """Until it is destroyed a key can be kept, also after its date; nothing destroys it then."""
    key_id = new_key(kms).key_id
    sealed = seal(kms, key_id)
    clock.now = schedule(kms, key_id, 7)
    cancel(kms, key_id)
    with pytest.raises(KMSInvalidStateException, match="not due for deletion"):
        deletion.destroy_key(kms._core, key_id, REGION)
    assert sweep(kms) == []
    enable(kms, key_id)
    assert unseal(kms, sealed) == b"secret"


# -- the end --------------------------------------------------------------------------------------------------------


def rows_of(kms: Kms, key_id: str) -> list[int]:
    """How many aliases, tags and rotation settings the database has for a key."""
    with kms._core.store.reading() as conn:
        tables = (alias, tag, rotation)
        return [conn.scalar(select(func.count()).where(table.c.key_id == key_id)) or 0 for table in tables]


def test_destroyed_at_its_date(kms: Kms, clock: StoppedClock) -> None:
    """At its date, and not before, every backing key is gone from the token, and everything else from the lists."""
    made, other = new_key(kms, tags=[TAG]), new_key(kms)
    new_alias(kms, "alias/end", made.key_id)
    switch_on(kms, made.key_id)
    sealed = [seal(kms, made.key_id), seal(kms, other.key_id)]
    for _ in range(3):
        rotate(kms, made.key_id)
        sealed.insert(0, seal(kms, made.key_id))
    due = schedule(kms, made.key_id)
    assert rows_of(kms, made.key_id) == [1, 1, 1]
    clock.now = due - SECOND
    assert sweep(kms) == []
    assert backing_keys(kms) == {made.key_id: 4, other.key_id: 1}
    clock.now = due
    assert sweep(kms) == [(DELETION, made.key_id, DONE)]
    assert backing_keys(kms) == {other.key_id: 1}
    assert rows_of(kms, made.key_id) == [0, 0, 0]
    assert [key.key_id for key in kms.list_keys(ListKeysRequest()).keys] == [other.key_id]
    assert kms.list_aliases(ListAliasesRequest()).aliases == []
    for ciphertext in sealed[:-1]:
        with pytest.raises(AccessDeniedException):
            unseal(kms, ciphertext)
        with pytest.raises(NotFoundException):
            unseal(kms, ciphertext, key_id=made.key_id)
    assert unseal(kms, sealed[-1]) == b"secret"
    assert sweep(kms) == []
    assert kms.operator.find_differences() == []


GONE_FOR_ALL: dict[str, Act] = REFUSED | {
    "DescribeKey": described,
    "CancelKeyDeletion": cancel,
    "GetKeyRotationStatus": status_of,
    "ListKeyRotations": rotations,
    "ListAliases": lambda kms, key_id: kms.list_aliases(ListAliasesRequest(key_id=key_id)),
    "ListResourceTags": lambda kms, key_id: kms.list_resource_tags(ListResourceTagsRequest(key_id=key_id)),
    "GetKeyLastUsage": lambda kms, key_id: kms.get_key_last_usage(GetKeyLastUsageRequest(key_id=key_id)),
    "GetParametersForImport": parameters_for,
    "DeleteImportedKeyMaterial": delete_material,
}


def test_nothing_answers_any_more(site: Site, clock: StoppedClock) -> None:
    """Every operation on a deleted key is a NotFoundException, also in a process that has it in its cache."""
    with site.open(clock) as kms, site.open(clock) as there:
        key_id = new_key(kms).key_id
        new_alias(kms, "alias/gone", key_id)
        assert described(there, "alias/gone").key_id == key_id
        clock.now = schedule(kms, key_id)
        sweep(kms)
        for act in GONE_FOR_ALL.values():
            for each in (kms, there):
                with pytest.raises(NotFoundException):
                    act(each, key_id)
        for each in (kms, there):
            with pytest.raises(NotFoundException, match="alias/gone"):
                seal(each, "alias/gone")


def test_alias_is_free_again(kms: Kms, clock: StoppedClock) -> None:
    """The names of a deleted key may be given to another one, which does not open what the old one made."""
    key_id, heir = new_key(kms).key_id, new_key(kms).key_id
    new_alias(kms, "alias/name", key_id)
    old = seal(kms, "alias/name")
    clock.now = schedule(kms, key_id)
    sweep(kms)
    kms.create_alias(CreateAliasRequest(alias_name="alias/name", target_key_id=heir))
    assert unseal(kms, seal(kms, "alias/name"), key_id="alias/name") == b"secret"
    with pytest.raises(AccessDeniedException):
        unseal(kms, old)


def test_tombstone(kms: Kms, clock: StoppedClock) -> None:
    """The id stays taken: no key gets it again, not even by adopting an object that carries it."""
    key_id = new_key(kms).key_id
    clock.now = schedule(kms, key_id)
    sweep(kms)
    with kms._core.store.reading() as conn:
        assert keys.exists_anywhere(conn, key_id)
        assert conn.scalar(select(regional_key.c.lifecycle).where(regional_key.c.key_id == key_id)) == Lifecycle.DELETED
    with kms._core.device.connection.pool.session() as session:
        label = object_label(kms._core.installation.short_id, REGION, key_id, 1)
        generate(session, AES_256_BACKING_KEY, b"z" * 16, label)
    (finding,) = kms.operator.find_differences()
    assert finding.kind is Kind.ORPHAN
    with pytest.raises(KMSInvalidStateException):
        kms.operator.mend(finding)
    with pytest.raises(NotFoundException):
        described(kms, key_id)


def test_imported_bytes_do_not_bring_it_back(kms: Kms, clock: StoppedClock) -> None:
    """The same bytes in a new key do not decrypt what the deleted key made, whatever the header says."""
    key_id = new_imported_key(kms)
    sealed = seal(kms, key_id)
    clock.now = schedule(kms, key_id, 7)
    assert (DELETION, key_id, DONE) in sweep(kms)
    assert (backing_keys(kms), wrapping_keys(kms)) == ({}, [])
    heir = new_imported_key(kms, MATERIAL)
    with pytest.raises(AccessDeniedException):
        unseal(kms, sealed)
    own, parsed = blob.parse(seal(kms, heir)), blob.parse(sealed)
    with pytest.raises(InvalidCiphertextException):
        unseal(kms, blob.assemble(own.header, parsed.iv, parsed.body))


def test_wrapping_keys_go_with_it(kms: Kms, clock: StoppedClock) -> None:
    """Wrapping keys that the key still has are destroyed with it."""
    key_id = new_empty_key(kms)
    parameters_for(kms, key_id)
    assert len(wrapping_keys(kms)) == 1
    clock.now = schedule(kms, key_id, 7)
    deletion.destroy_key(kms._core, key_id, REGION)
    assert wrapping_keys(kms) == []
    assert sweep(kms) == []
    assert kms.operator.find_differences() == []


def wrapping_keys(kms: Kms) -> list[bytes]:
    """CKA_IDs of all private keys on the token."""
    inventory = kms._core.device.keys.inventory(mac_key(kms))
    return [stored_key.cka_id for stored_key in inventory if not stored_key.is_secret_key]


# -- a token that fails ---------------------------------------------------------------------------------------------


def test_token_fails_in_the_middle(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be destroyed is known as doomed, stays due, and the next sweep carries on; twice does no harm."""
    key_id = new_key(kms).key_id
    rotate(kms, key_id)
    clock.now = schedule(kms, key_id)
    destroyed: list[bytes] = []

    def fail_at_the_second(device: TokenDevice, permit: Permit, cka_id: bytes) -> bool:
        if destroyed:
            away()
        destroyed.append(cka_id)
        return device.keys.destroy(permit, cka_id)

    with monkeypatch.context() as patch:
        patch.setitem(destruction._PROCEDURES, ObjectPurpose.BACKING_KEY, fail_at_the_second)
        first, *others = sweep(kms)
    assert first == (DELETION, key_id, HELD)
    assert others == [(DESTRUCTION, key_id, HELD)]
    assert [finding.kind for finding in kms.operator.find_differences()] == [Kind.DOOMED]
    with pytest.raises(NotFoundException):
        described(kms, key_id)
    assert sweep(kms) == [(DESTRUCTION, key_id, DONE)]
    assert sweep(kms) == []
    assert kms.operator.find_differences() == []


def test_token_away_before_the_end(kms: Kms, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token that is away nothing is begun: the key can still be kept, and works when the token is back."""
    key_id = new_key(kms).key_id
    sealed = seal(kms, key_id)
    clock.now = schedule(kms, key_id)
    with monkeypatch.context() as patch:
        for name in ("ready", "use", "repeatable", "never_repeated"):
            patch.setattr(kms._core.device.connection, name, away)
        assert sweep(kms) == [(DELETION, key_id, HELD)]
    cancel(kms, key_id)
    enable(kms, key_id)
    assert named_by(kms, sealed) is not None
