"""Grant operations: create, list, retire and revoke."""

import re
import secrets
from collections.abc import Sequence
from typing import Final

from hsmkms.errors import (
    DryRunOperationException,
    InvalidArnException,
    InvalidGrantIdException,
    InvalidGrantTokenException,
    NotFoundException,
    ValidationException,
)
from hsmkms.model.enums import Operation
from hsmkms.model.grants import (
    CreateGrantRequest,
    CreateGrantResponse,
    GrantConstraints,
    GrantListEntry,
    ListGrantsRequest,
    ListGrantsResponse,
    ListRetirableGrantsRequest,
    RetireGrantRequest,
    RevokeGrantRequest,
)
from hsmkms.model.ids import key_arn, root_arn, user_arn
from hsmkms.model.records import GrantRecord, KeyRecord
from hsmkms.rules import paging
from hsmkms.rules.iam import grants as rules
from hsmkms.rules.iam import principals
from hsmkms.rules.iam.grant_token import INVALID
from hsmkms.service import grant_tokens
from hsmkms.service.operations.policies import HOW_TO_ACCEPT, is_unknown
from hsmkms.service.pipeline import DRY_RUN, Call, repeated
from hsmkms.store import grants
from hsmkms.store.engine import Connection
from hsmkms.store.sealed_rows import grant_subject

_ID_BYTES: Final = 32
_RETIRE: Final = "kms:RetireGrant"
_match_id: Final = re.compile(r"[0-9a-f]{64}").fullmatch


@repeated
def create_grant(call: Call, request: CreateGrantRequest) -> CreateGrantResponse:
    """Grant a principal operations with the key; with a Name, an identical grant is not created a second time."""
    key, _ = call.key(request.key_id)
    rules.check_new(request, key.record)
    new = _new(call, key.record, request)
    token = grant_tokens.make(call.core, new)  # before the transaction: the call to the token may be slow
    with call.audited_and_sealed_resolved(key.record) as (tx, record):
        for principal in (request.grantee_principal, request.retiring_principal):
            _check_principal(call, tx, principal)
        known = grants.named(tx, record.region, record.key_id, request.name) if request.name is not None else []
        same = next((each for each in known if rules.same(each, request)), None)
        if same is None:
            rules.check_room(grants.count(tx, record.region, record.key_id), record)
        if request.dry_run:
            raise DryRunOperationException(DRY_RUN)
        if same is None:
            grants.insert(tx, new)
    if same is not None:
        return CreateGrantResponse(grant_token=grant_tokens.make(call.core, same), grant_id=same.grant_id)
    return CreateGrantResponse(grant_token=token, grant_id=new.grant_id)


def list_grants(call: Call, request: ListGrantsRequest) -> ListGrantsResponse:
    """List the grants on a key, ordered by id."""
    key, _ = call.key(request.key_id)
    if request.grantee_principal is not None and request.grantee_service_principal is not None:
        raise ValidationException("Name either a GranteePrincipal or a GranteeServicePrincipal, not both.")
    if request.grant_id is not None:
        _check_id(request.grant_id)
    size = paging.page_size(Operation.LIST_GRANTS, request.limit)
    after = paging.after(Operation.LIST_GRANTS, request.marker)
    with call.core.store.reading() as conn:
        rows = grants.page(
            conn,
            call.region,
            after,
            size + 1,
            key_id=key.record.key_id,
            grant_id=request.grant_id,
            grantee=request.grantee_principal or request.grantee_service_principal,
        )
    return _page(call, Operation.LIST_GRANTS, rows, size)


def list_retirable_grants(call: Call, request: ListRetirableGrantsRequest) -> ListGrantsResponse:
    """List the grants on all keys that a principal may retire as their retiring principal."""
    call.permit_without_key()
    if (request.retiring_principal is None) is (request.retiring_service_principal is None):
        raise ValidationException("Name either a RetiringPrincipal, by its ARN, or a RetiringServicePrincipal.")
    retiring = request.retiring_principal or request.retiring_service_principal
    size = paging.page_size(Operation.LIST_RETIRABLE_GRANTS, request.limit)
    after = paging.after(Operation.LIST_RETIRABLE_GRANTS, request.marker)
    with call.core.store.reading() as conn:
        _check_principal(call, conn, request.retiring_principal)
        rows = grants.page(conn, call.region, after, size + 1, retiring=retiring)
    return _page(call, Operation.LIST_RETIRABLE_GRANTS, rows, size)


@repeated
def retire_grant(call: Call, request: RetireGrantRequest) -> None:
    """Delete a grant for its retiring principal, its grantee if it permits RetireGrant, or the account."""
    grant = _to_retire(call, request)
    call.authorise_retiring(call.find(grant.key_id), grant)
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    with call.core.audited_and_sealed() as tx:
        grants.delete(tx, grant)


@repeated
def revoke_grant(call: Call, request: RevokeGrantRequest) -> None:
    """Delete a grant for a principal who manages the key."""
    key, _ = call.key(request.key_id)
    grant = _on_key(call, key.record.key_id, request.grant_id)
    if request.dry_run:
        raise DryRunOperationException(DRY_RUN)
    with call.core.audited_and_sealed() as tx:
        grants.delete(tx, grant)


# -- finding ----------------------------------------------------------------------------------------------------


def _to_retire(call: Call, request: RetireGrantRequest) -> GrantRecord:
    by_id = request.key_id is not None and request.grant_id is not None
    if (request.grant_token is not None) is by_id:
        raise ValidationException("Name the grant by GrantToken, or by KeyId (the key's ARN) and GrantId together.")
    if request.grant_token is not None:
        return _of_token(call, request.grant_token)
    key_id, grant_id = str(request.key_id), str(request.grant_id)
    _check_id(grant_id)
    try:
        return _on_key(call, call.find(key_id).record.key_id, grant_id)
    except NotFoundException:
        # A caller who may not retire grants must not learn whether the key or the grant exists.
        arn = key_id if key_id.startswith("arn:") else key_arn(call.core.installation.account, call.region, key_id)
        call.authorise_unknown(_RETIRE, arn)
        raise


def _of_token(call: Call, token: str) -> GrantRecord:
    claims = grant_tokens.read(call.core, call.caller, token)
    grant = grant_tokens.find(call.core, call.caller, claims)
    if grant is None:
        call.authorise_unknown(_RETIRE, key_arn(call.core.installation.account, call.region, claims.key_id))
        raise InvalidGrantTokenException(INVALID)
    return grant


def _on_key(call: Call, key_id: str, grant_id: str) -> GrantRecord:
    _check_id(grant_id)
    with call.core.store.reading() as conn:
        rows = call.core.seals.check(conn, grant_subject(grant_id))
    grant = next(iter(grants.proven(rows, call.region)), None)
    if grant is None or grant.key_id != key_id:
        raise NotFoundException(f"Grant ID {grant_id} not found on the key {key_id}.")
    return grant


def _check_id(grant_id: str) -> None:
    if not _match_id(grant_id):
        raise InvalidGrantIdException(f"{grant_id!r} is no GrantId: it has 64 digits of 0-9 and a-f.")


def _check_principal(call: Call, conn: Connection, arn: str | None) -> None:
    """Raise InvalidArnException if the ARN is not a principal's, or its user or role does not exist."""
    if arn is None:
        return
    account = call.core.installation.account
    principal = principals.parse_arn(arn)
    unknown = (
        principal is not None and not call.core.accept_unknown_principals and is_unknown(call.core, conn, principal)
    )
    if principal is None or unknown:
        raise InvalidArnException(
            f"ARN does not refer to a valid principal: {arn}. Name a user, {user_arn(account, 'NAME')}, or "
            f"{root_arn(account)}.{f' {HOW_TO_ACCEPT}' if unknown else ''}"
        )


# -- making and showing -----------------------------------------------------------------------------------------


def _new(call: Call, record: KeyRecord, request: CreateGrantRequest) -> GrantRecord:
    constraints = request.constraints or GrantConstraints()
    return GrantRecord(
        grant_id=secrets.token_hex(_ID_BYTES),
        key_id=record.key_id,
        region=record.region,
        name=request.name or "",
        grantee=rules.grantee(request),
        retiring=rules.retiring(request),
        operations=tuple(dict.fromkeys(request.operations)),
        context_equals=constraints.encryption_context_equals,
        context_subset=constraints.encryption_context_subset,
        source_arn=constraints.source_arn,
        creation_date=call.now,
    )


def _page(call: Call, operation: Operation, rows: Sequence[GrantRecord], size: int) -> ListGrantsResponse:
    page, marker = paging.cut(operation, rows, size, lambda grant: grant.grant_id)
    return ListGrantsResponse(
        grants=[_entry(call, each) for each in page], truncated=marker is not None, next_marker=marker
    )


def _entry(call: Call, grant: GrantRecord) -> GrantListEntry:
    account = call.core.installation.account
    equals, subset = (None if each is None else dict(each) for each in (grant.context_equals, grant.context_subset))
    limits = GrantConstraints(
        encryption_context_equals=equals, encryption_context_subset=subset, source_arn=grant.source_arn
    )
    grantee, grantee_service = _named(grant.grantee)
    retiring, retiring_service = _named(grant.retiring)
    return GrantListEntry(
        key_id=key_arn(account, grant.region, grant.key_id),
        grant_id=grant.grant_id,
        name=grant.name,
        creation_date=grant.creation_date,
        grantee_principal=grantee,
        retiring_principal=retiring,
        grantee_service_principal=grantee_service,
        retiring_service_principal=retiring_service,
        issuing_account=root_arn(account),
        operations=list(grant.operations),
        constraints=limits if limits != GrantConstraints() else None,
    )


def _named(principal: str | None) -> tuple[str | None, str | None]:
    """Return (principal, service principal) as the API reports them; one of the two is None."""
    return (None, principal) if principal is not None and principals.is_service(principal) else (principal, None)
