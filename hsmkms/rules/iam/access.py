"""Decide whether a caller may do something, from key policy, the caller's policies and grants.

1. A matching Deny, in the key's policy or in one of the caller's, refuses.
2. Otherwise it is allowed by a statement of the key's policy that names the caller; or by one that names the account,
   together with a statement of one of the caller's policies; or by a grant.
3. Otherwise it is refused.

If an operation is not about a key, or is about an alias, only the caller's policies decide. The account's root counts
as a caller whose own policies allow everything, so a key's policy binds the root as well. Source: AWS KMS Developer
Guide, "Policy evaluation".
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from hsmkms.errors import AccessDeniedException
from hsmkms.model.records import GrantRecord
from hsmkms.rules.iam import grants
from hsmkms.rules.iam.documents import Policy, Statement
from hsmkms.rules.iam.question import Question

IDENTITY_BASED: Final = "identity-based"
RESOURCE_BASED: Final = "resource-based"
BY_POLICY: Final = frozenset({IDENTITY_BASED, RESOURCE_BASED})
KEY_POLICY: Final = "key policy"
ROOT: Final = "the account's root"


class Outcome(Enum):
    """Outcome of a decision; the values are those of IAM's policy simulator."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "explicitDeny"
    IMPLICIT_DENY = "implicitDeny"


class Decision(Struct, frozen=True):
    """A decision and its reason: a ``policy`` and its ``statement``, a grant, or the missing ``kind`` of policy.

    ``shown``: False if the error must not give the reason, since that would reveal to an outsider that the key exists.
    """

    outcome: Outcome
    kind: str
    policy: str | None = None
    statement: str | None = None
    delegated_by: str | None = None
    shown: bool = True

    @property
    def allowed(self) -> bool:
        """True if the outcome is ALLOWED."""
        return self.outcome is Outcome.ALLOWED


class OwnPolicy(Struct, frozen=True):
    """A policy of the caller: their own, or one of their groups'. ``name`` says which."""

    name: str
    policy: Policy


Grants = Callable[[str], Sequence[GrantRecord]]
"""Takes a principal's ARN and returns the principal's grants on the key; called only if no policy allows."""


def no_grants(_: str) -> Sequence[GrantRecord]:
    """Return no grants, for operations that no grant can allow."""
    return ()


def decide(
    question: Question, key_policy: Policy | None, own: Sequence[OwnPolicy], grants_of: Grants = no_grants
) -> Decision:
    """Decide a question. ``key_policy``: None if the operation is not about a key."""
    own_denial = _own_denial(question, own)
    if own_denial is not None:
        return own_denial
    if key_policy is None:
        return _by_own_policies(question, own) or _lacking(IDENTITY_BASED)
    denial = _key_denial(question, key_policy, own)
    if denial is not None:
        return denial
    return _allowing(question, key_policy, own, grants_of)


def _allowing(question: Question, key_policy: Policy, own: Sequence[OwnPolicy], grants_of: Grants) -> Decision:
    delegated: Statement | None = None
    for statement in key_policy.allows.get(question.action, ()):
        principals = statement.principals
        if principals is None or not statement.fits(question):
            continue
        if principals.directly(question):
            return Decision(Outcome.ALLOWED, RESOURCE_BASED, KEY_POLICY, statement.name)
        if principals.account and delegated is None:
            delegated = statement
    by_own = _by_own_policies(question, own)
    if delegated is not None and by_own is not None:
        return Decision(Outcome.ALLOWED, IDENTITY_BASED, by_own.policy, by_own.statement, delegated.name)
    grant = grants.fitting(grants_of(question.identity.arn), question)
    if grant is not None:
        return Decision(Outcome.ALLOWED, "grant", f"grant {grant.grant_id}")
    return _lacking(RESOURCE_BASED if by_own is not None else IDENTITY_BASED)


def decide_retiring(question: Question, key_policy: Policy, own: Sequence[OwnPolicy], grant: GrantRecord) -> Decision:
    """Decide whether a grant may be retired: the grant itself names by whom, and a Deny overrides as always."""
    own_denial = _own_denial(question, own)
    if own_denial is not None:
        return own_denial
    denial = _key_denial(question, key_policy, own)
    if denial is not None:
        return denial
    account_allows = _by_own_policies(question, own) is not None
    if grants.may_retire(grant, question, account_allows=account_allows):
        return Decision(Outcome.ALLOWED, "grant", f"grant {grant.grant_id}")
    return _lacking(IDENTITY_BASED)


def keeps_control(question: Question, key_policy: Policy) -> bool:
    """Return True if a new key policy lets the caller, or the account's own policies, change it again.

    ``question`` must be about kms:PutKeyPolicy.
    """
    if _first(key_policy.denies, question, _covers) is not None:
        return False
    return _first(key_policy.allows, question, _names) is not None


def asks_more(action: str, key_policy: Policy, own: Sequence[OwnPolicy]) -> bool:
    """Return True if the policies' decision on an action may depend on more than the caller and the key.

    Grants are not considered: they matter only if no policy allows.
    """
    if action in key_policy.asks_more:
        return True
    for each in own:  # noqa: SIM110 - for every request: a generator takes longer
        if action in each.policy.asks_more:
            return True
    return False


def refusal(question: Question, decision: Decision) -> AccessDeniedException:
    """Return the error for a refused caller, in AWS's words. It contains nothing that the caller has not named."""
    head = f"User: {question.identity.arn} is not authorized to perform: {question.action} on resource: "
    resource = question.shown or question.resource
    if decision.outcome is Outcome.EXPLICIT_DENY and decision.shown:
        return AccessDeniedException(f"{head}{resource} with an explicit deny in {_an(decision.kind)} policy")
    return AccessDeniedException(
        f"{head}{resource} because no {decision.kind if decision.shown else IDENTITY_BASED} policy allows the "
        f"{question.action} action"
    )


def _an(kind: str) -> str:
    return f"an {kind}" if kind.startswith("i") else f"a {kind}"


def _own_denial(question: Question, own: Sequence[OwnPolicy]) -> Decision | None:
    for each in own:
        statement = _first(each.policy.denies, question, _always)
        if statement is not None:
            return Decision(Outcome.EXPLICIT_DENY, IDENTITY_BASED, each.name, statement.name)
    return None


def _key_denial(question: Question, key_policy: Policy, own: Sequence[OwnPolicy]) -> Decision | None:
    statement = _first(key_policy.denies, question, _covers)
    if statement is None:
        return None
    shown = _by_own_policies(question, own) is not None
    return Decision(Outcome.EXPLICIT_DENY, RESOURCE_BASED, KEY_POLICY, statement.name, shown=shown)


def _by_own_policies(question: Question, own: Sequence[OwnPolicy]) -> Decision | None:
    if question.identity.user_name is None:
        return Decision(Outcome.ALLOWED, IDENTITY_BASED, ROOT)
    for each in own:
        statement = _first(each.policy.allows, question, _always)
        if statement is not None:
            return Decision(Outcome.ALLOWED, IDENTITY_BASED, each.name, statement.name)
    return None


def _lacking(kind: str) -> Decision:
    return Decision(Outcome.IMPLICIT_DENY, kind)


def _first(
    statements: Mapping[str, tuple[Statement, ...]], question: Question, means: Callable[..., bool]
) -> Statement | None:
    for each in statements.get(question.action, ()):  # for every request: a generator takes longer
        if means(each, question) and each.fits(question):
            return each
    return None


def _always(_: Statement, __: Question) -> bool:
    return True


def _covers(statement: Statement, question: Question) -> bool:
    return statement.principals is not None and statement.principals.covers(question)


def _names(statement: Statement, question: Question) -> bool:
    principals = statement.principals
    return principals is not None and (principals.account or principals.directly(question))
