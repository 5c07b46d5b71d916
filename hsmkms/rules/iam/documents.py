"""Parse a policy document for evaluation; what cannot be evaluated is refused, and nothing is ignored.

One exception is AWS's: an Allow of a key policy without Action or Resource has no effect. Another is for policies that
were stored by an earlier version, which accepted elements without effect: these are evaluated as they were then.

Source: IAM User Guide, "Grammar of the IAM JSON policy language"; AWS KMS Developer Guide, "Key policies".
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any, Final

from msgspec import Struct

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.model.enums import Operation
from hsmkms.model.ids import root_arn
from hsmkms.rules.iam import condition_keys
from hsmkms.rules.iam import operators as policy_operators
from hsmkms.rules.iam.operators import Condition
from hsmkms.rules.iam.patterns import Matcher, Template, any_of, arn_like, like, settled
from hsmkms.rules.iam.policy_json import decode, malformed, statements
from hsmkms.rules.iam.principals import EVERYBODY, Form, Principal, Principals, gather, is_service, parse
from hsmkms.rules.iam.question import Question

VARIABLES_SINCE: Final = "2012-10-17"
VERSIONS: Final = ("2008-10-17", VARIABLES_SINCE)

ACTIONS: Final = frozenset(f"kms:{each}" for each in Operation if each is not Operation.RE_ENCRYPT) | {
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
}
"""All actions that are ever evaluated: a statement's actions are expanded to these when it is parsed."""

_NAMED: Final = {each.lower(): each for each in (*ACTIONS, "kms:SynchronizeMultiRegionKey")}
"""Actions that a document may name; the last one, which AWS uses internally, is never evaluated."""

_STATEMENT: Final = frozenset(
    {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)
_match_action: Final = re.compile(r"\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+").fullmatch
_match_sid: Final = re.compile(r"[A-Za-z0-9]*").fullmatch


class PolicyKind(Enum):
    """Kind of a policy: a key's, which names principals, or a user's or group's, which does not."""

    KEY = "key policy"
    IDENTITY = "policy"


class Statement(Struct, frozen=True):
    """One statement. ``name``: its Sid or its number. ``resource``: None for all resources.

    ``asks_more``: whether its effect on a caller and a resource depends on more than these two: it has conditions, or
    variables in its resources. ``notes``: a sentence for each part of it that no caller or request of hsmkms can match.
    """

    name: str
    resource: Matcher | None
    conditions: tuple[Condition, ...]
    principals: Principals | None
    asks_more: bool
    notes: tuple[str, ...] = ()

    def fits(self, question: Question) -> bool:
        """Return True if resource and conditions match; the action was matched already."""
        if self.resource is not None and not self.resource(question.resource, question):
            return False
        for condition in self.conditions:  # noqa: SIM110 - for every request: a generator takes longer
            if not condition(question):
                return False
        return True


class Policy(Struct, frozen=True):
    """A policy's statements by action (``kms:Encrypt``), and the actions on which one of them asks more.

    ``users``: the ARNs and unique ids of its user principals. ``roles``: the account's roles that it names, and
    sessions of such. ``without_effect``: a sentence for each part of a stored policy that has no effect and would be
    refused today. ``notes``: one for each part that no caller or request of hsmkms can match.
    """

    denies: Mapping[str, tuple[Statement, ...]]
    allows: Mapping[str, tuple[Statement, ...]]
    asks_more: frozenset[str]
    users: frozenset[str]
    roles: frozenset[str] = frozenset()
    without_effect: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read(text: str, kind: PolicyKind, account: str, *, stored: bool = False) -> Policy:
    """Parse a document; MalformedPolicyDocumentException with a sentence on what cannot be evaluated.

    ``stored``: it was accepted earlier, so parts without effect are listed in the policy instead of being refused.
    """
    document = decode(text)
    for name in document:
        if name not in ("Version", "Id", "Statement"):
            raise malformed(f"{name!r} is no element of a policy: it has Version, Id and Statement.")
    version = document.get("Version", VERSIONS[0])
    if version not in VERSIONS:
        raise malformed(f"Version {version!r} is not known: write {VARIABLES_SINCE}.")
    if not isinstance(document.get("Id", ""), str):
        raise malformed("Id must be a string.")
    reader = _Reader(kind, account, variables=version == VARIABLES_SINCE, stored=stored)
    for number, each in enumerate(statements(document), start=1):
        reader.add(number, each)
    return reader.policy()


class _Reader:
    """Collects the statements of one document."""

    def __init__(self, kind: PolicyKind, account: str, *, variables: bool, stored: bool) -> None:
        self._kind = kind
        self._account = account
        self._variables = variables
        self._stored = stored
        self._place = ""
        self._without_effect: list[str] = []
        self._by_effect: dict[str, dict[str, list[Statement]]] = {"Allow": {}, "Deny": {}}
        self._users: set[str] = set()
        self._roles: set[str] = set()
        self._notes: list[str] = []
        self._sids: set[str] = set()

    def add(self, number: int, statement: dict[str, Any]) -> None:
        """Read one statement."""
        sid = statement.get("Sid")
        self._place = f"Statement {number}" + (f" ({sid})" if sid else "")
        try:
            self._add(sid if isinstance(sid, str) and sid else f"statement {number}", statement)
        except MalformedPolicyDocumentException as exc:
            raise MalformedPolicyDocumentException(f"{self._place}: {exc}") from exc

    def policy(self) -> Policy:
        """Return the parsed policy."""
        allows, denies = (
            {action: tuple(parsed) for action, parsed in self._by_effect[effect].items()}
            for effect in ("Allow", "Deny")
        )
        return Policy(
            denies=denies,
            allows=allows,
            asks_more=frozenset(
                action
                for each in (allows, denies)
                for action, statements in each.items()
                if any(statement.asks_more for statement in statements)
            ),
            users=frozenset(self._users),
            roles=frozenset(self._roles),
            without_effect=tuple(self._without_effect),
            notes=tuple(dict.fromkeys(self._notes)),
        )

    def _no_effect(self, sentence: str) -> None:
        """Refuse a part without effect; for a stored policy, record it instead."""
        if not self._stored:
            raise MalformedPolicyDocumentException(sentence)
        self._without_effect.append(f"{self._place}: {sentence}")

    def _add(self, name: str, statement: dict[str, Any]) -> None:
        for element in statement:
            if element not in _STATEMENT:
                raise MalformedPolicyDocumentException(f"{element!r} is no element of a statement.")
        effect = statement.get("Effect")
        if effect not in ("Allow", "Deny"):
            raise MalformedPolicyDocumentException(f"Effect must be Allow or Deny, not {effect!r}.")
        self._check_sid(statement.get("Sid", ""))
        noted = len(self._notes)
        principals = self._principals(statement, effect)
        actions = self._actions(statement)
        deny = effect == "Deny"
        resource, has_resource = self._resource(statement, deny=deny)
        conditions = self._conditions(statement.get("Condition", {}), deny=deny)
        notes = tuple(dict.fromkeys(self._notes[noted:]))
        variables = self._variables and "${" in str([statement.get(each) for each in ("Resource", "NotResource")])
        read = Statement(name, resource, conditions, principals, bool(conditions) or variables, notes)
        if deny and not (has_resource and {"Action", "NotAction"} & statement.keys()):
            self._no_effect("a Deny without Action or without Resource denies nothing: write both, Resource as *.")
        if deny and not actions and "NotAction" in statement:
            self._no_effect("a Deny whose NotAction names every action of KMS denies nothing: name fewer.")
        if not has_resource:
            return  # AWS accepts such an Allow in a key policy, and it has no effect
        for action in actions:
            self._by_effect[effect].setdefault(action, []).append(read)

    def _check_sid(self, sid: object) -> None:
        if not isinstance(sid, str):
            raise MalformedPolicyDocumentException("Sid must be a string.")
        if self._kind is PolicyKind.IDENTITY:
            if not _match_sid(sid):
                raise MalformedPolicyDocumentException("Sid may have letters and digits only.")
            if sid and sid in self._sids:
                raise MalformedPolicyDocumentException("this Sid is used twice: give each statement its own.")
            self._sids.add(sid)

    # -- elements -----------------------------------------------------------------------------------------------

    def _principals(self, statement: dict[str, Any], effect: str) -> Principals | None:
        given = [each for each in ("Principal", "NotPrincipal") if each in statement]
        if self._kind is PolicyKind.IDENTITY:
            if given:
                raise MalformedPolicyDocumentException(
                    f"a user's or group's policy has no {given[0]}: it applies to its user or group."
                )
            return None
        if len(given) != 1:
            raise MalformedPolicyDocumentException("a key policy's statement needs one of Principal and NotPrincipal.")
        inverted = given == ["NotPrincipal"]
        if inverted and effect == "Allow":
            raise MalformedPolicyDocumentException("NotPrincipal goes with Effect Deny only: name whom you allow.")
        entries, services = _principal_entries(statement[given[0]])
        named = [_parsed(each, self._account) for each in entries if each != EVERYBODY]
        principals = gather(named, self._account, everybody=EVERYBODY in entries, services=services, inverted=inverted)
        self._users |= principals.users
        self._roles |= {each.text for each in named if each.form is Form.ROLE and each.must_exist(self._account)}
        self._notes += [f"{self._place}: nobody calls here as {each}." for each in principals.strangers]
        return principals

    def _actions(self, statement: dict[str, Any]) -> frozenset[str]:
        given = self._one_of(statement, "Action", "NotAction")
        if given is None:
            return frozenset()
        name, entries = given
        for each in entries:
            if not _match_action(each):
                raise MalformedPolicyDocumentException(f"{each!r} is no action: write kms:Encrypt, kms:* or *.")
        if name == "Action" and self._kind is PolicyKind.KEY:
            foreign = [each for each in entries if each != "*" and not each.lower().startswith("kms:")]
            if foreign:
                raise MalformedPolicyDocumentException(f"a key policy is about actions of kms, not {foreign[0]!r}.")
        named = ACTIONS & {action for each in entries for action in self._named_by(each)}
        return named if name == "Action" else ACTIONS - named

    def _named_by(self, entry: str) -> list[str]:
        """Return the actions that an entry matches: at least one if it begins with kms."""
        match = like(Template.read(entry.lower(), variables=False))
        actions = [action for lowered, action in _NAMED.items() if match(lowered, _NOBODY)]
        if not actions and entry.lower().startswith("kms:"):
            self._no_effect(f"{entry!r} is no action of KMS: {action_hint(entry.lower())}")
        return actions

    def _resource(self, statement: dict[str, Any], *, deny: bool) -> tuple[Matcher | None, bool]:
        """Return the matcher of resources (None for all), and whether the statement names any."""
        given = self._one_of(statement, "Resource", "NotResource")
        if given is None:
            return None, False
        name, entries = given
        if name == "Resource" and "*" in entries:
            return None, True
        match = any_of([arn_like(each, variables=self._variables) for each in entries])
        chosen: Matcher = match if name == "Resource" else lambda value, question: not match(value, question)
        if self._variables and any("${" in each for each in entries):
            return settled(chosen, deny=deny), True
        return chosen, True

    def _one_of(self, statement: dict[str, Any], name: str, negated: str) -> tuple[str, list[str]] | None:
        given = [each for each in (name, negated) if each in statement]
        if len(given) > 1:
            raise MalformedPolicyDocumentException(f"it has both {name} and {negated}.")
        if not given:
            if self._kind is PolicyKind.KEY:
                return None
            raise MalformedPolicyDocumentException(f"it needs {name} or {negated}.")
        return given[0], _strings(statement[given[0]], given[0])

    def _conditions(self, block: object, *, deny: bool) -> tuple[Condition, ...]:
        if not isinstance(block, dict):
            raise MalformedPolicyDocumentException("Condition must be an object of operators.")
        conditions: list[Condition] = []
        for operator, lines in block.items():
            if not isinstance(lines, dict) or not lines:
                raise MalformedPolicyDocumentException(f"{operator} must be an object of condition keys and values.")
            self._check_spellings(operator, list(lines))
            for name, values in lines.items():
                key = condition_keys.find(name)
                if key.identity_only and self._kind is PolicyKind.KEY:
                    raise MalformedPolicyDocumentException(f"{name} works in policies of users and groups only.")
                operands = _strings(values, name, scalars=True)
                if key.absent:
                    frequency = "always" if policy_operators.holds_if_absent(operator, operands) else "never"
                    self._notes.append(f"{self._place}: no request here has {key.name}: {operator} {frequency} holds.")
                conditions.append(
                    policy_operators.condition(operator, key, operands, variables=self._variables, deny=deny)
                )
        return tuple(conditions)

    def _check_spellings(self, operator: str, names: list[str]) -> None:
        """Refuse a condition key in two letter cases under one operator: both lines would have to hold."""
        folded = [each.lower() for each in names]
        twice = next((each for each in names if folded.count(each.lower()) > 1), None)
        if twice is not None:
            self._no_effect(f"{operator} has {twice!r} twice, in other letter case: put its values into one list.")


_NOBODY: Final[Any] = None
"""Passed in place of a question to matchers that do not use it."""


def action_hint(entry: str, otherwise: str = "kms:*") -> str:
    """Suggest what to write instead of an unknown action; ``entry``: in lower case, with its prefix."""
    longer = sorted(each for each in _NAMED if each.startswith(entry))
    close = [_NAMED[each] for each in longer or get_close_matches(entry, _NAMED)][:2]
    return f"did you mean {' or '.join(close)}?" if close else f"write kms:Encrypt, or {otherwise}."


def _principal_entries(named: object) -> tuple[list[str], list[str]]:
    """Return the entries under AWS (or ``*`` for every principal) and those under Service."""
    if named == EVERYBODY:
        return [EVERYBODY], []
    if not isinstance(named, dict) or not named:
        raise MalformedPolicyDocumentException('Principal must be "*", or an object such as {"AWS": "arn:..."}.')
    wrong = next((kind for kind in named if kind not in ("AWS", "Service")), None)
    if wrong is not None:
        raise MalformedPolicyDocumentException(f"there are no principals of the kind {wrong!r}: write AWS or Service.")
    entries, services = (_strings(named[kind], kind) if kind in named else [] for kind in ("AWS", "Service"))
    strange = next((each for each in services if not is_service(each)), None)
    if strange is not None:
        raise MalformedPolicyDocumentException(f"{strange!r} is no service: write its name, as logs.amazonaws.com.")
    return entries, services


def _parsed(entry: str, account: str) -> Principal:
    principal = parse(entry)
    if principal is None and is_service(entry):
        raise MalformedPolicyDocumentException(f"{entry!r} is a principal of the kind Service, not AWS.")
    if principal is None:
        raise MalformedPolicyDocumentException(
            f"{entry!r} is no principal: write the ARN of a user, arn:aws:iam::{account}:user/NAME, or of a role, "
            f"without wildcards; an account, {root_arn(account)}; or *."
        )
    return principal


def _strings(value: object, name: str, *, scalars: bool = False) -> list[str]:
    """Return a string or list of strings as a list; with ``scalars``, numbers and booleans become their text."""
    entries: list[Any] = value if isinstance(value, list) else [value]
    if scalars:
        entries = [_SCALARS.get(type(each), _as_it_is)(each) for each in entries]
    if not entries or not all(isinstance(each, str) for each in entries):
        raise MalformedPolicyDocumentException(f"{name} must be a string or a list of strings.")
    return entries


def _as_it_is(value: object) -> object:
    return value


_SCALARS: Final[Mapping[type, Callable[[Any], object]]] = {
    bool: lambda value: "true" if value else "false",
    int: str,
    float: str,
}
