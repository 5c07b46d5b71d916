"""Build a record of the audit log from a request and its outcome, without secrets.

Members of type bytes (plaintext, ciphertext, key material, import tokens, attestation documents) are left out, and so
are grant tokens. The encryption context is recorded, as in CloudTrail: by definition it is not secret.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET, Raw, Struct

from hsmkms.errors import HsmKmsError
from hsmkms.model.audit import INTERNAL, KMS_SOURCE, AuditRecord, Resource
from hsmkms.model.caller import MAX_USER_AGENT, Caller
from hsmkms.model.enums import Operation
from hsmkms.model.ids import root_arn
from hsmkms.rules.audit.any_text import encode_any

MAX_PARAMETERS: Final = 100_000
"""Limit in bytes of JSON; longer parameters are left out, as CloudTrail does."""

MAX_MESSAGE: Final = 1024
LOCAL: Final = "localhost"

_SECRET: Final = frozenset({"grant_token", "grant_tokens"})
_CHANGING: Final = (
    *("Cancel", "Connect", "Create", "Delete", "Disable", "Disconnect", "Enable", "Import", "Put", "Replicate"),
    *("Retire", "Revoke", "Rotate", "Schedule", "Synchronize", "Tag", "Untag", "Update"),
    # Operator commands, and actions of hsmkms itself.
    *("Accept", "Add", "Archive", "Change", "Destroy", "Discard", "Migrate", "Reconcile", "Remove", "Renew", "Reset"),
    *("Restore", "Seal", "Trust"),
)
LOOKING: Final = ("Describe", "Get", "List")
"""Operations that are still served if the log cannot be written: they change and decrypt nothing."""

encode: Final = msgspec.json.Encoder().encode


@cache
def is_read_only(event: str) -> bool:
    """Return True for events that change no key, alias or grant: CloudTrail's ``readOnly``."""
    return not event.startswith(_CHANGING)


def only_looks(operation: str) -> bool:
    """Return True for operations that only read metadata. GetParametersForImport creates a wrapping key."""
    return operation.startswith(LOOKING) and operation != Operation.GET_PARAMETERS_FOR_IMPORT


# -- the members of a request ------------------------------------------------------------------------------------


class Members(Struct, frozen=True):
    """The recordable members of a type (no bytes, no secrets): CloudTrail's names, and functions that read them.

    ``map_name``: the only map among them, which differs from request to request. ``identify`` returns the values of the
    others with their types, which tell True from 1.
    """

    names: tuple[str, ...]
    read: Callable[[Struct], tuple[Any, ...]]
    map_name: str | None
    read_map: Callable[[Struct], Mapping[str, Any] | None]
    identify: Callable[[Struct], object]


def parameters(value: Struct | None) -> Raw:
    """Encode a request's or response's members as JSON under CloudTrail's names, without secrets; null for None."""
    if value is None:
        return _NULL
    kind = type(value)
    return Raw(encode_any(limited(_shown_members(kind, members_of(kind).read(value)) or None)))


_NULL: Final = Raw(b"null")


@cache
def members_of(kind: type[Struct]) -> Members:
    """Return the recordable members of a type."""
    shown = [
        each
        for each in msgspec.structs.fields(kind)
        if each.name not in _SECRET and not _is_a(each.type, msgspec.inspect.BytesType)
    ]
    maps = [each.name for each in shown if _is_a(each.type, msgspec.inspect.DictType)]
    map_name = maps[0] if len(maps) == 1 else None
    plain = [each.name for each in shown if each.name != map_name]
    return Members(
        names=tuple(each.encode_name[0].lower() + each.encode_name[1:] for each in shown),
        read=_reader([each.name for each in shown]),
        map_name=map_name,
        read_map=attrgetter(map_name) if map_name else lambda _: None,
        identify=_reader([*plain, *(f"{each}.__class__" for each in plain)]),
    )


def _reader(names: list[str]) -> Callable[[Struct], tuple[Any, ...]]:
    """Return a function that reads members into a tuple, in C if there are several."""
    if not names:
        return lambda _: ()
    read: Callable[[Struct], Any] = attrgetter(*names)
    return read if len(names) > 1 else lambda value: (read(value),)


def _is_a(hint: Any, kind: type[msgspec.inspect.Type]) -> bool:  # noqa: ANN401 - a type
    """Return True if values of a member may be of that kind."""
    found = msgspec.inspect.type_info(hint)
    kinds = found.types if isinstance(found, msgspec.inspect.UnionType) else (found,)
    return any(isinstance(each, kind) for each in kinds)


_PLAIN: Final = frozenset({str, bool, int, dict})
"""Types of members that are shown as they are."""


def _shown_members(kind: type[Struct], values: tuple[Any, ...]) -> dict[str, Any]:
    pairs = zip(members_of(kind).names, values, strict=True)
    return {
        name: value if type(value) in _PLAIN else _shown(value)
        for name, value in pairs
        if value is not None and not isinstance(value, bytes)
    }


def _shown(value: Any) -> Any:  # noqa: ANN401 - any member
    if isinstance(value, Struct):
        return _shown_members(type(value), members_of(type(value)).read(value)) or None
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value if not isinstance(each, bytes)]
    return value


def limited(value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the parameters, or a placeholder if they are too long to be recorded."""
    if value is None or not any(len(each) > MAX_USER_AGENT for each in value.values() if isinstance(each, _LONG)):
        return value
    size = len(encode_any(value))
    return value if size <= MAX_PARAMETERS else {"omitted": f"{size:,} bytes"}


_LONG: Final = (str, list, dict)

# -- other members of a record ------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def identity(principal: str, account: str, access_key_id: str | None) -> Raw:
    """Return CloudTrail's ``userIdentity`` of a caller; "" is an unauthenticated caller."""
    key = {"accessKeyId": access_key_id} if access_key_id else {}
    if not principal:
        return Raw(encode_any({"type": "Unknown", "accountId": account, **key}))
    if principal == root_arn(account):
        members = {"type": "Root", "principalId": account, "arn": principal, "accountId": account, **key}
    else:
        name = principal.rpartition("/")[2]
        members = {
            "type": "IAMUser",
            "principalId": name,
            "arn": principal,
            "accountId": account,
            **key,
            "userName": name,
        }
    return Raw(encode_any(members))


@lru_cache(maxsize=8)
def internal_identity(account: str) -> Raw:
    """Return the identity of hsmkms's own actions, as AWS records it for a scheduled rotation."""
    return Raw(encode({"accountId": account, "invokedBy": INTERNAL}))


@lru_cache(maxsize=4096)
def resources(arns: tuple[str, ...], account: str) -> tuple[Resource, ...]:
    """Return the keys and aliases among the authorised ARNs, each once."""
    kinds = ((arn, _kind(arn)) for arn in dict.fromkeys(arns))
    return tuple(Resource(account_id=account, type=kind, arn=arn) for arn, kind in kinds if kind)


def _kind(arn: str) -> str | None:
    name = arn.rpartition(":")[2]
    return next((kind for prefix, kind in _KINDS.items() if name.startswith(prefix)), None)


_KINDS: Final = {"key/": "AWS::KMS::Key", "alias/": "AWS::KMS::Alias"}


def event_time(now: datetime) -> str:
    """Format an instant as CloudTrail does: whole seconds in UTC."""
    moment = now if now.tzinfo is UTC else now.astimezone(UTC)
    return f"{moment.isoformat(timespec='seconds')[: -len(_OFFSET)]}Z"


_OFFSET: Final = "+00:00"


def materials(response: Struct | None, fallback: str | None) -> tuple[tuple[str, str], ...]:
    """Return the key materials that a cryptographic operation used, as (CloudTrail's member name, id)."""
    if response is not None:
        kind = type(response)
        named = zip(_material_members(kind), material_reader(kind)(response), strict=True)
        present = tuple((_MATERIALS[member], value) for member, value in named if value)
        if present:
            return present
    return (("keyMaterialId", fallback),) if fallback else ()


@cache
def material_reader(kind: type[Struct]) -> Callable[[Struct], tuple[Any, ...]]:
    """Return the function that reads the ids of key materials out of a response of that type."""
    return _reader(_material_members(kind))


@cache
def _material_members(kind: type[Struct]) -> list[str]:
    return [member for member in _MATERIALS if member in kind.__struct_fields__]


_MATERIALS: Final = {
    "key_material_id": "keyMaterialId",
    "source_key_material_id": "sourceKeyMaterialId",
    "destination_key_material_id": "destinationKeyMaterialId",
}

# -- the record ---------------------------------------------------------------------------------------------------


class RecordedCall(Protocol):
    """A request as the audit log records it, as far as the pipeline has processed it."""

    operation: Operation
    caller: Caller
    now: datetime
    resources: list[str]
    material_id: str | None


class Occasion(Struct, frozen=True):
    """Common members of all records of a process: the account, and the user agent of local calls."""

    account: str
    agent: str


class Event(Struct, frozen=True, kw_only=True):
    """A requested operation and its time. ``shown``: its ``parameters``; ``arns``: the authorised resources."""

    name: str
    at: datetime
    event_id: str
    source: str = KMS_SOURCE
    shown: Raw | Mapping[str, Any] | None = None
    arns: tuple[str, ...] = ()


class Outcome(Struct, frozen=True, kw_only=True):
    """Result of an operation. ``used``: the ``materials`` that it has used."""

    response: Struct | None = None
    used: tuple[tuple[str, str], ...] = ()
    error: HsmKmsError | None = None


NOTHING: Final = Outcome()


def event_of(call: RecordedCall, now: datetime, request: Struct, event_id: str) -> Event:
    """Return what is recorded of a request, whatever its outcome."""
    return Event(
        name=call.operation,
        at=now,
        event_id=event_id,
        shown=parameters(request),
        arns=tuple(call.resources),
    )


def of_request(occasion: Occasion, caller: Caller, event: Event, outcome: Outcome) -> AuditRecord:
    """Build the record of a request."""
    read_only = is_read_only(event.name)
    error, response = outcome.error, outcome.response
    used = outcome.used if error is None else ()
    agent = caller.user_agent or (occasion.agent if caller.source_address is None else "")
    return AuditRecord(
        user_identity=identity(caller.principal, occasion.account, caller.access_key_id),
        event_time=event_time(event.at),
        event_source=event.source,
        event_name=event.name,
        aws_region=caller.region,
        source_ip_address=caller.source_address or LOCAL,
        user_agent=agent[:MAX_USER_AGENT],
        error_code=UNSET if error is None else error.code,
        error_message=UNSET if error is None else str(error)[:MAX_MESSAGE],
        request_parameters=event.shown,
        response_elements=None if read_only else parameters(response),
        additional_event_data=dict(used) or UNSET,
        request_id=caller.request_id,
        event_id=event.event_id,
        read_only=read_only,
        resources=resources(event.arns, occasion.account),
        recipient_account_id=occasion.account,
    )
