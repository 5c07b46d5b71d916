"""Alias operations: an alias is a name in a region for one key, and can be moved to another key."""

from hsmkms.errors import AlreadyExistsException, LimitExceededException
from hsmkms.model.aliases import (
    AliasListEntry,
    CreateAliasRequest,
    DeleteAliasRequest,
    ListAliasesRequest,
    ListAliasesResponse,
    UpdateAliasRequest,
)
from hsmkms.model.enums import Operation
from hsmkms.model.ids import KeyRef, RefKind, alias_arn, unknown
from hsmkms.model.records import AliasRecord, KeyRecord
from hsmkms.rules import aliases as rules
from hsmkms.rules import paging
from hsmkms.rules.iam import managed
from hsmkms.service.pipeline import Call, repeated
from hsmkms.store import aliases, keys
from hsmkms.store.engine import Connection


@repeated
def create_alias(call: Call, request: CreateAliasRequest) -> None:
    """Create an alias of a key; the name must be free in the region."""
    rules.check_new_name(request.alias_name)
    rules.check_target(request.target_key_id)
    arn = call.authorise_alias(request.alias_name)
    with call.audited_and_sealed(request.target_key_id) as (tx, record):
        if aliases.fetch(tx, call.region, request.alias_name) is not None:
            raise AlreadyExistsException(f"An alias with the name {arn} already exists")
        _check_room(tx, call, record.key_id)
        aliases.insert(tx, call.region, request.alias_name, record.key_id, call.now)


@repeated
def update_alias(call: Call, request: UpdateAliasRequest) -> None:
    """Move an alias to another key of the same kind (manual rotation)."""
    arn = _own_alias(call, request.alias_name)
    rules.check_target(request.target_key_id)
    with call.audited_and_sealed(request.target_key_id) as (tx, record):
        old = _judged_target(tx, call, request.alias_name)
        rules.check_retarget(arn, old, record)
        if old.key_id != record.key_id:
            _check_room(tx, call, record.key_id)
        aliases.update(tx, call.region, request.alias_name, record.key_id, call.now)


@repeated
def delete_alias(call: Call, request: DeleteAliasRequest) -> None:
    """Delete an alias; the key stays as it is."""
    _own_alias(call, request.alias_name)
    with call.core.audited_and_sealed() as tx:
        _judged_target(tx, call, request.alias_name)
        aliases.delete(tx, call.region, request.alias_name)


def list_aliases(call: Call, request: ListAliasesRequest) -> ListAliasesResponse:
    """List the aliases of the region, or of one key, in the order of their names."""
    call.permit_without_key()
    key_id = call.find(request.key_id).record.key_id if request.key_id is not None else None
    size = paging.page_size(Operation.LIST_ALIASES, request.limit)
    after = paging.after(Operation.LIST_ALIASES, request.marker)
    with call.core.store.reading() as conn:
        rows = aliases.page(conn, call.region, key_id, after, size + 1)
        reserved = [] if key_id is not None else _unused_service_aliases(conn, call, after)
    entries = sorted([*map(_entry, rows), *reserved], key=lambda entry: entry.alias_name)
    page, marker = paging.cut(Operation.LIST_ALIASES, entries, size, lambda entry: entry.alias_name)
    return ListAliasesResponse(aliases=list(page), truncated=marker is not None, next_marker=marker)


def _unused_service_aliases(conn: Connection, call: Call, after: str | None) -> list[AliasListEntry]:
    """Return the aliases of services whose keys do not exist yet: without a key id, and without dates."""
    names = [managed.alias_of(service) for service in call.core.services if service != managed.EVERY]
    account = call.core.installation.account
    return [
        AliasListEntry(alias_name=name, alias_arn=alias_arn(account, call.region, name))
        for name in names
        if name > (after or "") and aliases.fetch(conn, call.region, name) is None
    ]


def _own_alias(call: Call, name: str) -> str:
    """Authorise the operation on an alias that must not be a service's, and return its ARN."""
    rules.check_name(name)
    arn = call.authorise_alias(name)
    if managed.service_of(name) is not None:
        raise managed.denied(call.operation, arn, call.caller)
    return arn


def _entry(alias: AliasRecord) -> AliasListEntry:
    return AliasListEntry(
        alias_name=alias.name,
        alias_arn=alias.arn,
        target_key_id=alias.target_key_id,
        creation_date=alias.creation_date,
        last_updated_date=alias.last_updated_date,
    )


def _judged_target(tx: Connection, call: Call, name: str) -> KeyRecord:
    """Authorise the operation on the key that an alias points at now, as if the request named it; return the key."""
    alias = aliases.fetch(tx, call.region, name)
    record = keys.fetch(tx, call.region, alias.target_key_id) if alias else None
    if record is None:
        raise _not_found(call, name)
    call.authorise_and_check(record, alias_arn(call.core.installation.account, call.region, name))
    return record


def _not_found(call: Call, name: str) -> Exception:
    return unknown(KeyRef(RefKind.ALIAS, call.region, name), call.core.installation.account)


def _check_room(tx: Connection, call: Call, key_id: str) -> None:
    if aliases.count(tx, call.region, key_id) >= rules.MAX_ALIASES_PER_KEY:
        raise LimitExceededException(
            f"The key {key_id} has {rules.MAX_ALIASES_PER_KEY} aliases, the most that a key can have."
        )
