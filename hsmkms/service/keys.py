"""Making KMS keys, and what may be said and changed about them."""

import uuid
from typing import Final

from hsmkms.errors import (
    ConfigurationError,
    KMSInternalException,
    PinError,
    ThrottlingException,
    TokenFullError,
    TokenUnfitError,
    UnsupportedOperationException,
    ValidationException,
)
from hsmkms.model.enums import KeyManager, KeySpec, KeyState, KeyUsage, MaterialState, Operation, Origin
from hsmkms.model.ids import key_arn, new_key_id
from hsmkms.model.keys import (
    CreateKeyRequest,
    CreateKeyResponse,
    DescribeKeyRequest,
    DescribeKeyResponse,
    DisableKeyRequest,
    EnableKeyRequest,
    KeyListEntry,
    KeyMetadata,
    ListKeysRequest,
    ListKeysResponse,
    UpdateKeyDescriptionRequest,
)
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules import material, paging, policies, specs, states, tags
from hsmkms.rules.states import Event
from hsmkms.service.core import Core
from hsmkms.service.pipeline import Call
from hsmkms.store import keys

NOTHING_WAS_MADE: Final = (
    ConfigurationError,
    PinError,
    ThrottlingException,
    TokenFullError,
    TokenUnfitError,
    UnsupportedOperationException,
)
"""Faults after which no object can have stayed on the token; after any other one ``reconcile`` has to look."""

NO_CUSTOM_STORE: Final = (
    "hsmkms has no custom key stores: use Origin AWS_KMS, and leave CustomKeyStoreId and XksKeyId out."
)


def create_key(call: Call, request: CreateKeyRequest) -> CreateKeyResponse:
    """Make a KMS key whose backing key is generated on the token and never leaves it.

    The token and the database share no transaction, so: intent, device, result. After a crash between the steps
    ``reconcile`` finds the intent and what became of it; a key that was reported as created has all three.
    """
    core = call.core
    spec, usage = _check_new(request)
    new_tags = [(each.tag_key, each.tag_value) for each in request.tags or []]
    tags.check_new(new_tags)
    policy = request.policy if request.policy is not None else policies.default_policy(core.installation.account)
    policies.check_text(policy)
    call.account()
    if new_tags:
        call.account("kms:TagResource")
    record = _new_record(call, spec, usage, request.description or "", policy)
    backing_key = record.materials[0]
    label = label_of(core, record, backing_key.sequence)

    core.device.ready()  # no intent that a token which is away would leave behind

    # 1. Intent: the row that will be the key, invisible until it is complete.
    with core.store.atomic() as tx:
        keys.insert_intent(tx, record, dict(new_tags), label)
    core.reached("create-key 1: intent")

    # 2. Device: the backing key, read back and compared.
    try:
        core.device.generate_backing_key(call.new_object(backing_key.cka_id), backing_key.cka_id, label)
    except NOTHING_WAS_MADE:
        with core.store.atomic() as tx:
            keys.drop_intent(tx, record.key_id, record.region)
        raise
    core.reached("create-key 2: device")

    # 3. Result: from here on the key exists.
    with core.store.atomic() as tx:
        completed = keys.complete(tx, record.key_id, record.region)
    if not completed:
        raise KMSInternalException("the key was reconciled away while it was being made: create it again")
    core.reached("create-key 3: result")
    call.resources.append(record.arn)
    return CreateKeyResponse(key_metadata=metadata(call, record))


def describe_key(call: Call, request: DescribeKeyRequest) -> DescribeKeyResponse:
    """Tell everything about a key that is no policy, alias, tag or rotation setting."""
    key, _ = call.key(request.key_id, aliases=True)
    return DescribeKeyResponse(key_metadata=metadata(call, key.record))


def list_keys(call: Call, request: ListKeysRequest) -> ListKeysResponse:
    """List the keys of the region in the order of their ids."""
    call.account()
    size = paging.page_size(Operation.LIST_KEYS, request.limit)
    after = paging.decode_marker(Operation.LIST_KEYS, request.marker) if request.marker is not None else None
    with call.core.store.reading() as conn:
        found = keys.page(conn, call.region, after, size + 1)
    account = call.core.installation.account
    more = len(found) > size
    return ListKeysResponse(
        keys=[KeyListEntry(key_id=each, key_arn=key_arn(account, call.region, each)) for each in found[:size]],
        truncated=more,
        next_marker=paging.encode_marker(Operation.LIST_KEYS, found[size - 1]) if more else None,
    )


def update_key_description(call: Call, request: UpdateKeyDescriptionRequest) -> None:
    """Replace the description."""
    with call.changing(request.key_id) as (tx, record):
        keys.set_description(tx, record.key_id, record.region, request.description, record.version)


def enable_key(call: Call, request: EnableKeyRequest) -> None:
    """Make the key usable again."""
    _switch(call, request.key_id, Event.ENABLE)


def disable_key(call: Call, request: DisableKeyRequest) -> None:
    """Make the key unusable, at the next call of every process."""
    _switch(call, request.key_id, Event.DISABLE)


def metadata(call: Call, record: KeyRecord) -> KeyMetadata:
    """What DescribeKey shows of a record at the call's instant."""
    state = states.effective_state(record, call.now)
    algorithms = list(specs.algorithms(record.spec, record.usage))
    imported = record.origin is Origin.EXTERNAL
    expiries = [each.valid_to for each in record.materials if each.valid_to is not None]
    present = [each for each in record.materials if not states.lapsed(each, call.now)]
    symmetric = specs.family(record.spec) is specs.Family.SYMMETRIC
    return KeyMetadata(
        aws_account_id=call.core.installation.account,
        key_id=record.key_id,
        arn=record.arn,
        creation_date=record.creation_date,
        enabled=state is KeyState.ENABLED,
        description=record.description,
        key_usage=record.usage,
        key_state=state,
        deletion_date=record.deletion_date if state is KeyState.PENDING_DELETION else None,
        valid_to=min(expiries) if imported and expiries else None,
        origin=record.origin,
        expiration_model=present[-1].expiration_model if imported and present else None,
        key_manager=record.manager,
        customer_master_key_spec=record.spec,
        key_spec=record.spec,
        encryption_algorithms=algorithms if record.usage is KeyUsage.ENCRYPT_DECRYPT else None,
        signing_algorithms=algorithms if record.usage is KeyUsage.SIGN_VERIFY else None,
        key_agreement_algorithms=algorithms if record.usage is KeyUsage.KEY_AGREEMENT else None,
        encapsulation_algorithms=algorithms if record.usage is KeyUsage.ENCAPSULATE_DECAPSULATE else None,
        mac_algorithms=algorithms if record.usage is KeyUsage.GENERATE_VERIFY_MAC else None,
        multi_region=record.multi_region,
        current_key_material_id=record.current.material_id if symmetric and record.current else None,
    )


def _switch(call: Call, key_id: str, event: Event) -> None:
    with call.changing(key_id) as (tx, record):
        keys.set_state(tx, record.key_id, record.region, states.next_state(record.state, event), record.version)


def _check_new(request: CreateKeyRequest) -> tuple[KeySpec, KeyUsage]:
    spec, usage = specs.resolve(request.key_spec, request.customer_master_key_spec, request.key_usage)
    origin = request.origin or Origin.AWS_KMS
    if origin in (Origin.AWS_CLOUDHSM, Origin.EXTERNAL_KEY_STORE):
        raise UnsupportedOperationException(NO_CUSTOM_STORE)
    if request.custom_key_store_id is not None or request.xks_key_id is not None:
        raise ValidationException(NO_CUSTOM_STORE)
    if origin == Origin.EXTERNAL:
        raise UnsupportedOperationException(
            "This version of hsmkms cannot import key material: create the key with Origin AWS_KMS."
        )
    if spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise UnsupportedOperationException(
            f"This version of hsmkms makes keys of KeySpec SYMMETRIC_DEFAULT only, not {spec}."
        )
    if request.multi_region:
        raise UnsupportedOperationException(
            "This version of hsmkms makes single-Region keys only: leave MultiRegion out."
        )
    return spec, usage


def _new_record(call: Call, spec: KeySpec, usage: KeyUsage, description: str, policy: str) -> KeyRecord:
    installation = call.core.installation
    key_id = new_key_id(multi_region=False)
    cka_id = uuid.uuid4().bytes
    first = MaterialRecord(
        material_id=material.material_id(key_id, cka_id),
        sequence=1,
        state=MaterialState.CURRENT,
        created_at=call.now,
        token_id=installation.token_id,
        cka_id=cka_id,
    )
    return KeyRecord(
        key_id=key_id,
        region=call.region,
        arn=key_arn(installation.account, call.region, key_id),
        spec=spec,
        usage=usage,
        origin=Origin.AWS_KMS,
        manager=KeyManager.CUSTOMER,
        multi_region=False,
        state=KeyState.ENABLED,
        description=description,
        policy=policy,
        creation_date=call.now,
        version=0,
        materials=(first,),
    )


def label_of(core: Core, record: KeyRecord, sequence: int) -> str:
    """The object's label: what the row can be rebuilt from, in the form that the token has room for."""
    long = material.object_label(core.installation.short_id, record.region, record.key_id, sequence)
    if len(long) <= core.device.profile.label_bytes:
        return long
    return material.short_label(core.installation.short_id, record.key_id, sequence)
