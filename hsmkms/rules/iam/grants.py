"""Check new grants, and decide which requests a grant allows.

A grant allows and never denies. Source: AWS KMS Developer Guide, "Grants in AWS KMS"; API Reference, CreateGrant.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from hsmkms.errors import LimitExceededException, ValidationException
from hsmkms.model.enums import GrantOperation, KeySpec, KeyUsage, Operation
from hsmkms.model.grants import CreateGrantRequest, GrantConstraints
from hsmkms.model.ids import root_arn
from hsmkms.model.records import GrantRecord, KeyRecord
from hsmkms.rules.constraints import word
from hsmkms.rules.context import folded
from hsmkms.rules.iam.condition_keys import encryption_context
from hsmkms.rules.iam.principals import is_service
from hsmkms.rules.iam.question import Question

MAX_GRANTS_PER_KEY: Final = 50_000
MAX_PAIRS: Final = 8
MAX_VALUE_CHARACTERS: Final = 384

_G = GrantOperation
_ALWAYS: Final = frozenset({_G.CREATE_GRANT, _G.RETIRE_GRANT, _G.DESCRIBE_KEY})
_ENCRYPTION: Final = frozenset({_G.ENCRYPT, _G.DECRYPT, _G.RE_ENCRYPT_FROM, _G.RE_ENCRYPT_TO})
_DATA_KEYS: Final = frozenset(
    {
        _G.GENERATE_DATA_KEY,
        _G.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        _G.GENERATE_DATA_KEY_PAIR,
        _G.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT,
    }
)
_PUBLIC: Final = frozenset({_G.GET_PUBLIC_KEY})
OPERATIONS: Final[Mapping[KeyUsage, frozenset[GrantOperation]]] = {
    KeyUsage.ENCRYPT_DECRYPT: _ALWAYS | _ENCRYPTION,
    KeyUsage.SIGN_VERIFY: _ALWAYS | _PUBLIC | {_G.SIGN, _G.VERIFY},
    KeyUsage.GENERATE_VERIFY_MAC: _ALWAYS | {_G.GENERATE_MAC, _G.VERIFY_MAC},
    KeyUsage.KEY_AGREEMENT: _ALWAYS | _PUBLIC | {_G.DERIVE_SHARED_SECRET},
    KeyUsage.ENCAPSULATE_DECAPSULATE: _ALWAYS | _PUBLIC | {_G.ENCAPSULATE, _G.DECAPSULATE},
}
"""Operations that a grant on a key of that usage can contain; symmetric keys also allow those on data keys."""

_WITHOUT_CONTEXT: Final = frozenset({"kms:DescribeKey", "kms:RetireGrant"})
"""Actions that a grant's constraints do not limit."""


Pairs = Mapping[str, Sequence[str]]
"""Values of an encryption context by folded key: letter case is significant only in values. Keys that differ only in
letter case have all their values here, so that none of them can replace another."""


class Narrowing(Struct, frozen=True):
    """Constraints of a grant on the encryption context: the whole context, and pairs that it must contain."""

    equals: Pairs | None
    subset: Pairs | None


def possible(key: KeyRecord) -> frozenset[GrantOperation]:
    """Return the operations that a grant on the key can contain."""
    operations = OPERATIONS[key.usage]
    if key.usage is KeyUsage.ENCRYPT_DECRYPT:
        operations |= _DATA_KEYS if key.spec is KeySpec.SYMMETRIC_DEFAULT else _PUBLIC
    return operations


def check_new(request: CreateGrantRequest, key: KeyRecord) -> None:
    """Raise ValidationException if the requested grant is impossible on the key."""
    if not request.operations:
        raise ValidationException("Operations must name at least one operation.")
    _check_principals(request)
    wrong = sorted({word(_G, each, "operations") for each in request.operations} - possible(key))
    if wrong:
        raise ValidationException(
            f"A grant on {key.arn} cannot contain {', '.join(wrong)}: its spec is {key.spec} and its usage {key.usage}."
        )
    _check_constraints(request, key)


def _check_principals(request: CreateGrantRequest) -> None:
    """Raise unless there is one grantee and at most one retiring principal; a service needs a SourceArn as well."""
    service = request.grantee_service_principal is not None
    if service is (request.grantee_principal is not None):
        raise ValidationException(
            "Name either a GranteePrincipal, by the ARN of a user, role or account, or a GranteeServicePrincipal."
        )
    if request.retiring_principal is not None and request.retiring_service_principal is not None:
        raise ValidationException("Name either a RetiringPrincipal or a RetiringServicePrincipal, not both.")
    strange = next((each for each in _services(request) if not is_service(each)), None)
    if strange is not None:
        raise ValidationException(f"{strange!r} is no service of AWS: write its name, as rds.amazonaws.com.")
    if not service:
        return
    if request.constraints is None or request.constraints.source_arn is None:
        raise ValidationException("A GranteeServicePrincipal needs a SourceArn among the Constraints.")
    if retiring(request) is None:
        raise ValidationException("A GranteeServicePrincipal needs a RetiringPrincipal or a RetiringServicePrincipal.")


def _services(request: CreateGrantRequest) -> list[str]:
    named = (request.grantee_service_principal, request.retiring_service_principal)
    return [each for each in named if each is not None]


def grantee(request: CreateGrantRequest) -> str:
    """Return the requested grantee: the ARN of a principal, or the name of a service."""
    return request.grantee_principal or request.grantee_service_principal or ""


def retiring(request: CreateGrantRequest) -> str | None:
    """Return the requested retiring principal, in the same form, or None."""
    return request.retiring_principal or request.retiring_service_principal


def _check_constraints(request: CreateGrantRequest, key: KeyRecord) -> None:
    constraints = request.constraints
    if constraints is None:
        return
    contexts = (constraints.encryption_context_equals, constraints.encryption_context_subset)
    if None not in contexts:
        raise ValidationException(
            "EncryptionContextEquals and EncryptionContextSubset cannot both be in the constraints of a grant: "
            "leave one of them out."
        )
    if any(contexts) and key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise ValidationException("Only grants on symmetric encryption keys can be limited by an encryption context.")
    for context in contexts:
        if context is not None and len(context) > MAX_PAIRS:
            raise ValidationException(f"An encryption context constraint can have {MAX_PAIRS} pairs at most.")
        if any(len(value) > MAX_VALUE_CHARACTERS for value in (context or {}).values()):
            raise ValidationException(
                f"A value of an encryption context constraint can have {MAX_VALUE_CHARACTERS} characters at most."
            )


def check_room(count: int, key: KeyRecord) -> None:
    """Raise LimitExceededException if the key has the maximum number of grants."""
    if count >= MAX_GRANTS_PER_KEY:
        raise LimitExceededException(f"{key.arn} has {count} grants, the most that a key can have.")


def same(grant: GrantRecord, request: CreateGrantRequest) -> bool:
    """Return True if the grant is what the request asks for: with a Name it is then not created again."""
    wanted = request.constraints or GrantConstraints()
    limits = (grant.context_equals, grant.context_subset, grant.source_arn)
    return (grant.grantee, grant.retiring, set(grant.operations), limits) == (
        grantee(request),
        retiring(request),
        set(request.operations),
        (wanted.encryption_context_equals, wanted.encryption_context_subset, wanted.source_arn),
    )


def fitting(grants: Sequence[GrantRecord], question: Question) -> GrantRecord | None:
    """Return the first of the caller's grants that allows the question, or None."""
    return next((each for each in grants if allows(each, question)), None)


def allows(grant: GrantRecord, question: Question) -> bool:
    """Return True if a grant of the caller contains the operation and its constraints fit the request.

    No request to hsmkms is made on behalf of an AWS resource, so a grant with a SourceArn allows nothing.
    """
    if grant.source_arn is not None or question.action.removeprefix("kms:") not in grant.operations:
        return False
    if question.operation is Operation.CREATE_GRANT:
        return isinstance(question.request, CreateGrantRequest) and _narrower(question.request, grant)
    if question.action in _WITHOUT_CONTEXT:
        return True
    limits = _limits(grant)
    if limits.equals is limits.subset is None:
        return True
    context = _folded(encryption_context(question)) or {}
    if limits.equals is not None and context != limits.equals:
        return False
    return limits.subset is None or limits.subset.items() <= context.items()


def may_retire(grant: GrantRecord, question: Question, *, account_allows: bool) -> bool:
    """Return True if the caller may retire the grant: the account that issued it, and the principals that it names.

    ``account_allows``: a policy of the caller allows kms:RetireGrant, which counts if the account itself is the
    retiring principal.
    """
    arn = question.identity.arn
    named = arn == grant.retiring or (arn == grant.grantee and GrantOperation.RETIRE_GRANT in grant.operations)
    by_account = account_allows and grant.retiring == root_arn(question.account)
    return named or by_account or question.identity.user_name is None


def _narrower(request: CreateGrantRequest, parent: GrantRecord) -> bool:
    """Return True if the requested child grant allows no more than its parent."""
    return set(request.operations) <= set(parent.operations) and _stricter(_wanted(request), _limits(parent))


def _stricter(child: Narrowing, parent: Narrowing) -> bool:
    if parent.equals is not None and child.equals != parent.equals:
        return False
    if parent.subset is None:
        return True
    pairs = parent.subset.items()
    return any(context is not None and pairs <= context.items() for context in (child.equals, child.subset))


def _limits(grant: GrantRecord) -> Narrowing:
    return Narrowing(_folded(grant.context_equals), _folded(grant.context_subset))


def _wanted(request: CreateGrantRequest) -> Narrowing:
    constraints = request.constraints
    if constraints is None:
        return Narrowing(None, None)
    return Narrowing(_folded(constraints.encryption_context_equals), _folded(constraints.encryption_context_subset))


def _folded(context: Mapping[str, str] | None) -> Pairs | None:
    if context is None:
        return None
    pairs: dict[str, list[str]] = {}
    for key, value in context.items():
        pairs.setdefault(folded(key), []).append(value)
    return {key: sorted(values) for key, values in pairs.items()}
