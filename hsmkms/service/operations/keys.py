"""Key operations: create, describe, list, change the description, enable and disable."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from hsmkms.errors import UnsupportedOperationException, ValidationException
from hsmkms.model.enums import (
    ExpirationModel,
    KeyState,
    MultiRegionKeyType,
    Operation,
    Origin,
)
from hsmkms.model.ids import key_arn
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
    MultiRegionConfiguration,
    MultiRegionKey,
    UpdateKeyDescriptionRequest,
)
from hsmkms.model.records import KeyRecord
from hsmkms.model.shapes import Tag
from hsmkms.rules import paging, specs, states, tags
from hsmkms.rules.constraints import word
from hsmkms.rules.iam import policies
from hsmkms.rules.states import Event
from hsmkms.service.keys import creation
from hsmkms.service.keys import rotate as rotating
from hsmkms.service.operations.policies import check_new, check_principals
from hsmkms.service.pipeline import Call, repeated
from hsmkms.service.runtime.core import Core
from hsmkms.store import keys
from hsmkms.store.engine import Connection

NO_CUSTOM_STORE: Final = (
    "hsmkms has no custom key stores: use Origin AWS_KMS, and leave CustomKeyStoreId and XksKeyId out."
)


def create_key(call: Call, request: CreateKeyRequest) -> CreateKeyResponse:
    """Create a KMS key: its backing key is generated on the token and never leaves it, or is imported later.

    ``creation`` writes its rows, in transactions that are audited and sealed.
    """
    core = call.core
    nature = _check_new(request)
    new_tags = first_tags(request.tags)
    policy = first_policy(core, request.policy)
    call.permit_without_key()
    if new_tags:
        may_tag(call)
    _check_token(core, nature)
    record = creation.new_record(
        core,
        call.region,
        nature,
        description=request.description or "",
        policy=policy,
    )
    if request.policy is not None:
        with core.store.reading() as conn:
            bypass = request.bypass_policy_lockout_safety_check
            check_new(call, conn, policy, record, bypass=bypass, new_tags=new_tags)

    def check(tx: Connection) -> None:  # again in the transaction: a user named by the policy may have been deleted
        check_principals(core, tx, policy)

    if nature.origin is Origin.EXTERNAL:
        creation.make_empty(core, record, new_tags, check)
    else:
        record = creation.make(core, record, new_tags, call.new_objects, check=check) or record
    call.resources.append(record.arn)
    return CreateKeyResponse(key_metadata=metadata(call, record))


def describe_key(call: Call, request: DescribeKeyRequest) -> DescribeKeyResponse:
    """Return a key's metadata: everything except policy, aliases, tags and rotation setting."""
    key, _ = call.key(request.key_id, aliases=True)
    return DescribeKeyResponse(key_metadata=metadata(call, key.record))


def list_keys(call: Call, request: ListKeysRequest) -> ListKeysResponse:
    """List the keys of the region, ordered by id."""
    call.permit_without_key()
    size = paging.page_size(Operation.LIST_KEYS, request.limit)
    after = paging.after(Operation.LIST_KEYS, request.marker)
    with call.core.store.reading() as conn:
        key_ids = keys.page(conn, call.region, after, size + 1)
    account = call.core.installation.account
    page, marker = paging.cut(Operation.LIST_KEYS, key_ids, size, str)
    return ListKeysResponse(
        keys=[KeyListEntry(key_id=each, key_arn=key_arn(account, call.region, each)) for each in page],
        truncated=marker is not None,
        next_marker=marker,
    )


@repeated
def update_key_description(call: Call, request: UpdateKeyDescriptionRequest) -> None:
    """Replace the description."""
    with call.audited_and_sealed(request.key_id) as (tx, record):
        keys.set_description(tx, record.key_id, record.region, request.description, record.version)


@repeated
def enable_key(call: Call, request: EnableKeyRequest) -> None:
    """Enable the key; a rotation that became due meanwhile is done at once."""
    record = _switch(call, request.key_id, Event.ENABLE)
    rotating.rotate_if_due(call.core, record.key_id, record.region)


@repeated
def disable_key(call: Call, request: DisableKeyRequest) -> None:
    """Disable the key, effective at the next call of every process."""
    _switch(call, request.key_id, Event.DISABLE)


def metadata(call: Call, record: KeyRecord) -> KeyMetadata:
    """Return the metadata that DescribeKey reports for a record at the call's instant."""
    state = states.effective_state(record, call.now)
    imported = record.origin is Origin.EXTERNAL
    valid_to = states.expires_at(record)
    present = any(not states.lapsed(each, call.now) for each in states.associated(record))
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
        valid_to=valid_to,
        origin=record.origin,
        expiration_model=_expiration_model(valid_to) if imported and present else None,
        key_manager=record.manager,
        customer_master_key_spec=record.spec,
        key_spec=record.spec,
        **specs.reported_algorithms(record),
        multi_region=record.multi_region,
        multi_region_configuration=_multi_region_configuration(call, record) if record.multi_region else None,
        pending_deletion_window_in_days=record.pending_window_days
        if state is KeyState.PENDING_REPLICA_DELETION
        else None,
        current_key_material_id=specs.shown_material(record),
    )


def _expiration_model(valid_to: datetime | None) -> ExpirationModel:
    """Return the expiration model of the key as a whole: it expires if any of its materials does."""
    expires, stays = ExpirationModel.KEY_MATERIAL_EXPIRES, ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE
    return stays if valid_to is None else expires


def first_tags(given: Sequence[Tag] | None) -> dict[str, str]:
    """Return a new key's tags by tag key. TagException if they cannot be set together."""
    pairs = [(each.tag_key, each.tag_value) for each in given or []]
    tags.check_new(pairs)
    return dict(pairs)


def may_tag(call: Call, replica: KeyRecord | None = None) -> None:
    """Authorise tagging a key about to be created; only a replica's key id is known by then."""
    key_id = replica.key_id if replica is not None else "*"
    call.permit_without_key("kms:TagResource", key_arn(call.core.installation.account, call.region, key_id), replica)


def first_policy(core: Core, given: str | None) -> str:
    """Return a new key's policy: the given one, else the default."""
    return given if given is not None else policies.default_policy(core.installation.account)


def _multi_region_configuration(call: Call, record: KeyRecord) -> MultiRegionConfiguration:
    def member(region: str) -> MultiRegionKey:
        return MultiRegionKey(arn=key_arn(call.core.installation.account, region, record.key_id), region=region)

    return MultiRegionConfiguration(
        multi_region_key_type=MultiRegionKeyType.REPLICA if record.is_replica else MultiRegionKeyType.PRIMARY,
        primary_key=member(record.primary_region or record.region),
        replica_keys=[member(each) for each in record.replica_regions],
    )


def _switch(call: Call, key_id: str, event: Event) -> KeyRecord:
    with call.audited_and_sealed(key_id) as (tx, record):
        keys.set_state(tx, record.key_id, record.region, states.next_state(record.state, event), record.version)
    return record


def _check_token(core: Core, nature: creation.Nature) -> None:
    """Raise UnsupportedOperationException for kinds of keys that the token does not support."""
    kind = (nature.spec, nature.usage)
    if nature.origin is Origin.EXTERNAL:
        core.device.imports.check_import(kind)
    else:
        core.device.keys.check_kind(kind)


def _check_new(request: CreateKeyRequest) -> creation.Nature:
    spec, usage = specs.resolve(request.key_spec, request.customer_master_key_spec, request.key_usage)
    origin = word(Origin, request.origin, "origin") if request.origin is not None else Origin.AWS_KMS
    if origin in (Origin.AWS_CLOUDHSM, Origin.EXTERNAL_KEY_STORE):
        raise UnsupportedOperationException(NO_CUSTOM_STORE)
    if request.custom_key_store_id is not None or request.xks_key_id is not None:
        raise ValidationException(NO_CUSTOM_STORE)
    return creation.Nature(spec=spec, usage=usage, origin=origin, multi_region=bool(request.multi_region))
