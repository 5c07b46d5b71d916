"""Define the condition keys of policies: name, kind, and value in a request.

A value is computed only when a statement needs it. None means that the request has no such key. Several values are a
list, which requires ForAnyValue or ForAllValues. Sources: AWS KMS Developer Guide, "Condition keys for AWS KMS"; IAM
User Guide, "AWS global condition context keys".
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.model.enums import MessageType, Operation
from hsmkms.model.ids import ALIAS_PREFIX
from hsmkms.rules.context import folded
from hsmkms.rules.iam.absent_keys import ABSENT
from hsmkms.rules.iam.condition_key import Clash, ConditionKey, Kind, Reader, Value
from hsmkms.rules.iam.question import Question

PrefixReader = Callable[[Question, str], Value]
"""Takes a question, and the rest of the name after the prefix, folded."""

_CRYPTOGRAPHY: Final = frozenset(
    {
        Operation.ENCRYPT,
        Operation.DECRYPT,
        Operation.RE_ENCRYPT,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        Operation.GENERATE_DATA_KEY_PAIR,
        Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
    }
)
_RE_ENCRYPT_SIDES: Final = {"kms:ReEncryptFrom": "source", "kms:ReEncryptTo": "destination"}


def find(name: str) -> ConditionKey:
    """Find the condition key of that name, in any letter case. MalformedPolicyDocumentException if there is none."""
    key = _KEYS.get(name.lower())
    if key is not None:
        return key
    for prefix, (kind, reader) in _PREFIXES.items():
        if name.lower().startswith(prefix) and len(name) > len(prefix):
            return ConditionKey(name, kind, _bound(reader, folded(name[len(prefix) :])))
    raise MalformedPolicyDocumentException(
        f"{name} is no condition key of IAM's global ones, nor one of AWS KMS: `hsmkms guide permissions` lists them."
    )


def encryption_context(question: Question) -> Mapping[str, str] | None:
    """Return a request's encryption context (for CreateGrant, its constraint's); None if it can have none."""
    request = question.request
    if question.operation is Operation.CREATE_GRANT:
        constraints = _member(request, "constraints")
        equals = _member(constraints, "encryption_context_equals")
        context = equals if equals is not None else _member(constraints, "encryption_context_subset")
    elif question.operation is Operation.RE_ENCRYPT:
        context = _member(request, f"{_RE_ENCRYPT_SIDES[question.action]}_encryption_context")
    elif question.operation in _CRYPTOGRAPHY:
        context = _member(request, "encryption_context")
    else:
        return None
    return context if context is not None else {}


# -- reading the request ----------------------------------------------------------------------------------------


def _member(holder: Struct | None, name: str) -> Any:  # noqa: ANN401 - members of many types
    return getattr(holder, name, None)


def _bound(reader: PrefixReader, rest: str) -> Reader:
    return lambda question: reader(question, rest)


def _request(name: str, *operations: Operation, default: Value = None) -> Reader:
    """Read a member of the request, in these operations; ``default`` applies if the request omits it."""

    def value(question: Question) -> Value:
        if question.operation not in operations:
            return None
        member: Value = _member(question.request, name)
        return default if member is None else member

    return value


def _record(name: str) -> Reader:
    """Read a property of the key; for a key about to be created, from the request."""

    def value(question: Question) -> Value:
        record = question.key.record if question.key is not None else question.new_key
        if record is not None:
            property_value: Value = getattr(record, name)
            return property_value
        return _of_new_key(question).get(name) if question.operation is Operation.CREATE_KEY else None

    return value


def _of_new_key(question: Question) -> dict[str, Value]:
    request = question.request
    spec = _member(request, "key_spec") or _member(request, "customer_master_key_spec") or "SYMMETRIC_DEFAULT"
    usage = _member(request, "key_usage") or ("ENCRYPT_DECRYPT" if spec == "SYMMETRIC_DEFAULT" else None)
    origin = _member(request, "origin") or "AWS_KMS"
    return {
        "spec": spec,
        "usage": usage,
        "origin": origin,
        "multi_region": bool(_member(request, "multi_region")),
    }


def _multi_region_type(question: Question) -> Value:
    """Return PRIMARY or REPLICA for a multi-Region key, else None."""
    record = question.key.record if question.key is not None else question.new_key
    if record is None:
        return "PRIMARY" if _record("multi_region")(question) else None
    if not record.multi_region:
        return None
    return "REPLICA" if record.is_replica else "PRIMARY"


def _algorithm(question: Question) -> Value:
    """Return the encryption algorithm; SYMMETRIC_DEFAULT if the request omits it, since no other has a default."""
    if question.operation not in _CRYPTOGRAPHY:
        return None
    side = _RE_ENCRYPT_SIDES.get(question.action)
    name = f"{side}_encryption_algorithm" if side else "encryption_algorithm"
    return _member(question.request, name) or "SYMMETRIC_DEFAULT"


def _context_value(question: Question, name: str) -> Value:
    return _under(encryption_context(question) or {}, name)


def _context_keys(question: Question) -> Value:
    context = encryption_context(question)
    return None if context is None else list(context)


def _request_alias(question: Question) -> Value:
    """Return the alias name by which the request named the key, or None."""
    side = _RE_ENCRYPT_SIDES.get(question.action)
    named = _member(question.request, f"{side}_key_id" if side else "key_id")
    if not isinstance(named, str):
        return None
    name = named.split(":", 5)[-1] if named.startswith("arn:") else named
    return name if name.startswith(ALIAS_PREFIX) else None


def _resource_aliases(question: Question) -> Value:
    return None if question.key is None else list(question.key.aliases())


def _same_key(question: Question) -> Value:
    """Return True if ReEncrypt has the same key on both sides."""
    if question.operation is not Operation.RE_ENCRYPT:
        return None
    if question.action == "kms:ReEncryptFrom":
        return question.resource in question.before
    source = question.source_key_id()
    return None if source is None or question.key is None else source == question.key.record.key_id


def _constraint_source_arn(question: Question) -> Value:
    constraints = _member(question.request, "constraints") if question.operation is Operation.CREATE_GRANT else None
    source_arn: str | None = _member(constraints, "source_arn")
    return source_arn


def _constraint_type(question: Question) -> Value:
    constraints = _member(question.request, "constraints") if question.operation is Operation.CREATE_GRANT else None
    for member, word in (
        ("encryption_context_equals", "EncryptionContextEquals"),
        ("encryption_context_subset", "EncryptionContextSubset"),
        ("source_arn", "SourceArn"),
    ):
        if _member(constraints, member) is not None:
            return word
    return None


def _days_without_use(question: Question) -> Value:
    return question.days_without_use() if question.operation in _ENDING else None


def _grant_operations(question: Question) -> Value:
    if question.operation is not Operation.CREATE_GRANT:
        return None
    return list(dict.fromkeys(_member(question.request, "operations") or []))


def _request_tags(question: Question) -> dict[str, str]:
    return {each.tag_key: each.tag_value for each in _member(question.request, "tags") or []}


def _tag_keys(question: Question) -> Value:
    removed: list[str] | None = _member(question.request, "tag_keys")
    return list(removed) if removed is not None else list(_request_tags(question)) or None


def _resource_tag(question: Question, name: str) -> Value:
    return None if question.key is None else _under(question.key.tags(), name)


def _under(pairs: Mapping[str, str], name: str) -> str | Clash | None:
    """Return the value of a key, ignoring its letter case; a Clash if there are several. ``name``: the folded key."""
    values = tuple(value for key, value in pairs.items() if folded(key) == name)
    return Clash(values) if len(values) > 1 else values[0] if values else None


_ENDING: Final = frozenset({Operation.DISABLE_KEY, Operation.SCHEDULE_KEY_DELETION})
_GRANT_CALLS: Final = frozenset({Operation.CREATE_GRANT, Operation.LIST_GRANTS, Operation.REVOKE_GRANT})
_PAIRS: Final = (Operation.GENERATE_DATA_KEY_PAIR, Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT)
_MACS: Final = (Operation.GENERATE_MAC, Operation.VERIFY_MAC)
_SIGNATURES: Final = (Operation.SIGN, Operation.VERIFY)
_POLICIES: Final = (Operation.GET_KEY_POLICY, Operation.PUT_KEY_POLICY)
_NEW_POLICIES: Final = (Operation.CREATE_KEY, Operation.PUT_KEY_POLICY, Operation.REPLICATE_KEY)

_TABLE: Final = (
    ConditionKey(
        "kms:BypassPolicyLockoutSafetyCheck",
        Kind.BOOL,
        _request("bypass_policy_lockout_safety_check", *_NEW_POLICIES, default=False),
    ),
    ConditionKey("kms:CallerAccount", Kind.WORD, lambda question: question.account),
    ConditionKey("kms:CustomerMasterKeySpec", Kind.WORD, _record("spec")),
    ConditionKey("kms:CustomerMasterKeyUsage", Kind.WORD, _record("usage")),
    ConditionKey("kms:DataKeyPairSpec", Kind.WORD, _request("key_pair_spec", *_PAIRS)),
    ConditionKey("kms:EncryptionAlgorithm", Kind.WORD, _algorithm),
    ConditionKey("kms:EncryptionContextKeys", Kind.WORD, _context_keys, several=True),
    ConditionKey("kms:ExpirationModel", Kind.WORD, _request("expiration_model", Operation.IMPORT_KEY_MATERIAL)),
    ConditionKey("kms:ValidTo", Kind.DATE, _request("valid_to", Operation.IMPORT_KEY_MATERIAL)),
    ConditionKey("kms:GrantConstraintType", Kind.WORD, _constraint_type),
    ConditionKey(
        "kms:GrantIsForAWSResource",
        Kind.BOOL,
        lambda question: False if question.operation in _GRANT_CALLS else None,
    ),
    ConditionKey("kms:GrantOperations", Kind.WORD, _grant_operations, several=True),
    ConditionKey("kms:GrantConstraintSourceArn", Kind.ARN, _constraint_source_arn),
    ConditionKey("kms:GranteePrincipal", Kind.ARN, _request("grantee_principal", Operation.CREATE_GRANT)),
    ConditionKey(
        "kms:GranteeServicePrincipal", Kind.WORD, _request("grantee_service_principal", Operation.CREATE_GRANT)
    ),
    ConditionKey("kms:RetiringPrincipal", Kind.ARN, _request("retiring_principal", Operation.CREATE_GRANT)),
    ConditionKey(
        "kms:RetiringServicePrincipal", Kind.WORD, _request("retiring_service_principal", Operation.CREATE_GRANT)
    ),
    ConditionKey(
        "kms:KeyAgreementAlgorithm", Kind.WORD, _request("key_agreement_algorithm", Operation.DERIVE_SHARED_SECRET)
    ),
    ConditionKey("kms:KeyOrigin", Kind.WORD, _record("origin")),
    ConditionKey("kms:KeySpec", Kind.WORD, _record("spec")),
    ConditionKey("kms:KeyUsage", Kind.WORD, _record("usage")),
    ConditionKey("kms:MacAlgorithm", Kind.WORD, _request("mac_algorithm", *_MACS)),
    ConditionKey("kms:MessageType", Kind.WORD, _request("message_type", *_SIGNATURES, default=MessageType.RAW)),
    ConditionKey("kms:MultiRegion", Kind.BOOL, _record("multi_region")),
    ConditionKey("kms:MultiRegionKeyType", Kind.WORD, _multi_region_type),
    ConditionKey("kms:PolicyName", Kind.WORD, _request("policy_name", *_POLICIES, default="default")),
    ConditionKey("kms:PrimaryRegion", Kind.WORD, _request("primary_region", Operation.UPDATE_PRIMARY_REGION)),
    ConditionKey("kms:ReplicaRegion", Kind.WORD, _request("replica_region", Operation.REPLICATE_KEY)),
    ConditionKey("kms:ReEncryptOnSameKey", Kind.BOOL, _same_key),
    ConditionKey("kms:RequestAlias", Kind.WORD, _request_alias),
    ConditionKey("kms:ResourceAliases", Kind.WORD, _resource_aliases, several=True, identity_only=True),
    ConditionKey(
        "kms:RotationPeriodInDays",
        Kind.NUMBER,
        _request("rotation_period_in_days", Operation.ENABLE_KEY_ROTATION),
    ),
    ConditionKey(
        "kms:ScheduleKeyDeletionPendingWindowInDays",
        Kind.NUMBER,
        _request("pending_window_in_days", Operation.SCHEDULE_KEY_DELETION, default=30),
    ),
    ConditionKey("kms:SigningAlgorithm", Kind.WORD, _request("signing_algorithm", *_SIGNATURES)),
    ConditionKey("kms:TrailingDaysWithoutKeyUsage", Kind.NUMBER, _days_without_use),
    ConditionKey(
        "kms:WrappingAlgorithm", Kind.WORD, _request("wrapping_algorithm", Operation.GET_PARAMETERS_FOR_IMPORT)
    ),
    ConditionKey("kms:WrappingKeySpec", Kind.WORD, _request("wrapping_key_spec", Operation.GET_PARAMETERS_FOR_IMPORT)),
    ConditionKey("aws:CurrentTime", Kind.DATE, lambda question: question.instant),
    ConditionKey("aws:EpochTime", Kind.DATE, lambda question: question.instant),
    ConditionKey("aws:PrincipalAccount", Kind.WORD, lambda question: question.account),
    ConditionKey("aws:PrincipalArn", Kind.ARN, lambda question: question.identity.arn),
    ConditionKey("aws:PrincipalIsAWSService", Kind.BOOL, lambda _: False),
    ConditionKey("aws:PrincipalType", Kind.WORD, lambda question: "User" if question.identity.user_name else "Account"),
    ConditionKey("aws:RequestedRegion", Kind.WORD, lambda question: question.caller.region),
    ConditionKey("aws:ResourceAccount", Kind.WORD, lambda question: question.account),
    ConditionKey("aws:SecureTransport", Kind.BOOL, lambda question: question.caller.secure_transport),
    ConditionKey("aws:SourceIp", Kind.ADDRESS, lambda question: question.caller.source_address),
    ConditionKey("aws:TagKeys", Kind.FREE, _tag_keys, several=True),
    ConditionKey("aws:UserAgent", Kind.FREE, lambda question: question.caller.user_agent),
    ConditionKey("aws:ViaAWSService", Kind.BOOL, lambda _: False),
    ConditionKey("aws:userid", Kind.WORD, lambda question: question.identity.user_id),
    ConditionKey("aws:username", Kind.WORD, lambda question: question.identity.user_name),
)

NAMES: Final = tuple(sorted((each.name for each in (*_TABLE, *ABSENT)), key=str.lower))
"""Every condition key except those with a user-defined part in the name."""

_KEYS: Final = {each.name.lower(): each for each in (*_TABLE, *ABSENT)}

_PREFIXES: Final[Mapping[str, tuple[Kind, PrefixReader]]] = {
    "kms:encryptioncontext:": (Kind.FREE, _context_value),
    "aws:principaltag/": (Kind.FREE, lambda question, name: _under(question.identity.tags, name)),
    "aws:requesttag/": (Kind.FREE, lambda question, name: _under(_request_tags(question), name)),
    "aws:resourcetag/": (Kind.FREE, _resource_tag),
}
