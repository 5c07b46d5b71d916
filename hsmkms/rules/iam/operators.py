"""Evaluate the condition operators of IAM's policy language.

A condition holds if the operator matches the request's value of the condition key with one of its operands; a negated
operator must match with none. Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and
"Multivalued context keys".
"""

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum, auto
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from msgspec import Struct

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.rules.iam.condition_key import Clash, ConditionKey, Kind, Value
from hsmkms.rules.iam.patterns import (
    AmbiguousVariableError,
    Matcher,
    Template,
    arn_like,
    equal_ignoring_case,
    equal_to,
    like,
)
from hsmkms.rules.iam.question import Question

Condition = Callable[[Question], bool]
Test = Callable[[Any, Question], bool]
"""Takes one value of a condition key; returns whether it matches the operand."""

IF_EXISTS: Final = "IfExists"
FOR_ANY: Final = "ForAnyValue:"
FOR_ALL: Final = "ForAllValues:"

LONGEST_SCALAR: Final = 128
"""Limit in characters for a number, date or address; longer text is not parsed, which would repeat per operand."""


class Family(Enum):
    """Type of value that an operator compares."""

    STRING = auto()
    ARN = auto()
    NUMERIC = auto()
    DATE = auto()
    BOOL = auto()
    BINARY = auto()
    ADDRESS = auto()


FITTING: Final[Mapping[Kind, frozenset[Family]]] = {
    Kind.WORD: frozenset({Family.STRING}),
    Kind.FREE: frozenset(Family),
    Kind.ARN: frozenset({Family.STRING, Family.ARN}),
    Kind.BOOL: frozenset({Family.STRING, Family.BOOL}),
    Kind.NUMBER: frozenset({Family.STRING, Family.NUMERIC}),
    Kind.DATE: frozenset({Family.STRING, Family.DATE, Family.NUMERIC}),
    Kind.ADDRESS: frozenset({Family.STRING, Family.ADDRESS}),
}
"""Operator families allowed for each kind of condition key: others would be always true or never."""


class Operator(Struct, frozen=True):
    """One operator: ``prepare`` returns the test for an operand."""

    family: Family
    negated: bool
    prepare: Callable[[str, bool], Test]


# -- preparing operands -----------------------------------------------------------------------------------------


def _string(matcher: Callable[[Template], Matcher]) -> Callable[[str, bool], Test]:
    def prepare(operand: str, variables: bool) -> Test:  # noqa: FBT001 - see Operator
        match = matcher(Template.read(operand, variables=variables))
        return lambda value, question: match(_text(value), question)

    return prepare


def _arn(operand: str, variables: bool) -> Test:  # noqa: FBT001 - see Operator
    return arn_like(operand, variables=variables)


def _ordered(read: Callable[[Any], Any], compare: Callable[[Any, Any], bool], what: str) -> Callable[[str, bool], Test]:
    """Build an operator on ordered values: ``read`` returns None for text that it cannot parse."""

    def prepare(operand: str, _: bool) -> Test:  # noqa: FBT001 - see Operator
        wanted = read(operand)
        if wanted is None:
            raise MalformedPolicyDocumentException(f"{operand!r} is no {what}.")

        def test(value: Any, _: Question) -> bool:  # noqa: ANN401 - see Test
            actual = read(value)
            return actual is not None and compare(actual, wanted)

        return test

    return prepare


def _number(value: Any) -> Decimal | None:  # noqa: ANN401 - an operand or a value
    if isinstance(value, datetime):
        return Decimal(value.timestamp())
    text = str(value)
    try:
        number = Decimal(text) if len(text) <= LONGEST_SCALAR else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None


def _date(value: Any) -> datetime | None:  # noqa: ANN401 - an operand or a value
    """Parse ISO 8601 (UTC if it has no time zone), or seconds since 1970; None if it is neither."""
    if isinstance(value, datetime):
        return value
    text = str(value)
    if len(text) > LONGEST_SCALAR:
        return None
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        read = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def _bool(value: Any) -> bool | None:  # noqa: ANN401 - an operand or a value
    return {"true": True, "false": False}.get(_text(value).lower())


def _bytes(value: Any) -> bytes | None:  # noqa: ANN401 - an operand or a value
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        return None


def _address(value: Any) -> IPv4Address | IPv6Address | None:  # noqa: ANN401 - a value
    return _read_address(value) if len(value) <= LONGEST_SCALAR else None


@lru_cache(maxsize=1024)
def _read_address(value: Any) -> IPv4Address | IPv6Address | None:  # noqa: ANN401 - a value
    """Parse an address; cached, since callers send many requests from one address."""
    try:
        address = ip_address(value)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _network(operand: str, _: bool) -> Test:  # noqa: FBT001 - see Operator
    try:
        network: IPv4Network | IPv6Network = ip_network(operand, strict=False)
    except ValueError as exc:
        raise MalformedPolicyDocumentException(f"{operand!r} is no IP address or range, as 203.0.113.0/24.") from exc

    def test(value: Any, _: Question) -> bool:  # noqa: ANN401 - see Test
        address = _address(value)
        return address is not None and address in network

    return test


def _text(value: Any) -> str:  # noqa: ANN401 - any value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(value)


def _same(actual: object, wanted: object) -> bool:
    return actual == wanted


_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "LessThan": lambda actual, wanted: actual < wanted,
    "LessThanEquals": lambda actual, wanted: actual <= wanted,
    "GreaterThan": lambda actual, wanted: actual > wanted,
    "GreaterThanEquals": lambda actual, wanted: actual >= wanted,
}


def _ordered_family(prefix: str, family: Family, read: Callable[[Any], Any], what: str) -> dict[str, Operator]:
    equal = _ordered(read, _same, what)
    return {
        f"{prefix}Equals": Operator(family, negated=False, prepare=equal),
        f"{prefix}NotEquals": Operator(family, negated=True, prepare=equal),
    } | {f"{prefix}{name}": Operator(family, False, _ordered(read, order, what)) for name, order in _ORDERS.items()}


OPERATORS: Final[Mapping[str, Operator]] = {
    "StringEquals": Operator(Family.STRING, False, _string(equal_to)),
    "StringNotEquals": Operator(Family.STRING, True, _string(equal_to)),
    "StringEqualsIgnoreCase": Operator(Family.STRING, False, _string(equal_ignoring_case)),
    "StringNotEqualsIgnoreCase": Operator(Family.STRING, True, _string(equal_ignoring_case)),
    "StringLike": Operator(Family.STRING, False, _string(like)),
    "StringNotLike": Operator(Family.STRING, True, _string(like)),
    "ArnEquals": Operator(Family.ARN, False, _arn),
    "ArnLike": Operator(Family.ARN, False, _arn),
    "ArnNotEquals": Operator(Family.ARN, True, _arn),
    "ArnNotLike": Operator(Family.ARN, True, _arn),
    "Bool": Operator(Family.BOOL, False, _ordered(_bool, _same, "truth value: write true or false")),
    "BinaryEquals": Operator(Family.BINARY, False, _ordered(_bytes, _same, "base64")),
    "IpAddress": Operator(Family.ADDRESS, False, _network),
    "NotIpAddress": Operator(Family.ADDRESS, True, _network),
    **_ordered_family("Numeric", Family.NUMERIC, _number, "number"),
    **_ordered_family("Date", Family.DATE, _date, "date: write 2027-01-31T12:00:00Z"),
}
NULL: Final = "Null"


# -- conditions -------------------------------------------------------------------------------------------------


def condition(operator: str, key: ConditionKey, operands: list[str], *, variables: bool, deny: bool) -> Condition:
    """Build the evaluation of one line of a Condition block, of a Deny or an Allow.

    MalformedPolicyDocumentException if it cannot be evaluated.
    """
    if operator == NULL:
        return _null(key, operands, deny=deny)
    quantifier, known = _parts(operator)
    if known is None:
        raise MalformedPolicyDocumentException(f"{operator} is no condition operator.")
    if known.family not in FITTING[key.kind]:
        raise MalformedPolicyDocumentException(
            f"{operator} does not fit {key.name}: it compares another kind of value."
        )
    if key.several and quantifier is None and not key.absent:
        raise MalformedPolicyDocumentException(
            f"{key.name} has several values: write {FOR_ANY}{operator} or {FOR_ALL}{operator}."
        )
    tests = [known.prepare(each, variables) for each in operands]
    missing = holds_if_absent(operator, operands)
    holds = _quantified(key.value, tests, known, missing=missing, every=quantifier == FOR_ALL, deny=deny)
    return _settled(holds, deny=deny) if variables and any("${" in each for each in operands) else holds


def holds_if_absent(operator: str, operands: list[str]) -> bool:
    """Return True if a line holds for a request without its key.

    IAM evaluates the quantifier first: without values ForAnyValue fails, whatever IfExists says, and ForAllValues
    holds. Source: IAM User Guide, "Condition operators", "...IfExists" and "Set operators for multivalued context
    keys".
    """
    if operator == NULL:
        return True in map(_bool, operands)
    quantifier, known = _parts(operator)
    if known is None or quantifier is not None:
        return known is not None and quantifier == FOR_ALL
    return known.negated or operator.endswith(IF_EXISTS)


def _parts(operator: str) -> tuple[str | None, Operator | None]:
    """Split an operator into its quantifier, if any, and the operator itself (None if it is unknown)."""
    quantifier = next((each for each in (FOR_ANY, FOR_ALL) if operator.startswith(each)), None)
    return quantifier, OPERATORS.get(operator.removeprefix(quantifier or "").removesuffix(IF_EXISTS))


def _quantified(
    value_of: Callable[[Question], Value],
    tests: list[Test],
    operator: Operator,
    *,
    missing: bool,
    every: bool,
    deny: bool,
) -> Condition:
    """Build a condition. ``missing``: its value without the key. ``every``: all values must match, not only one."""
    negated = operator.negated

    def holds(value: Any, question: Question) -> bool:  # noqa: ANN401 - one value
        for test in tests:  # for every request: a generator takes longer
            if test(value, question):
                return not negated
        return negated

    def evaluate(question: Question) -> bool:
        value = value_of(question)
        if value is None or value == []:
            return missing
        if isinstance(value, Clash):
            return deny or all(holds(each, question) for each in value.values)
        if not isinstance(value, list):
            return holds(value, question)
        quantified = all if every else any
        return quantified(holds(each, question) for each in value)

    return evaluate


def _settled(holds: Condition, *, deny: bool) -> Condition:
    """Wrap a condition with variables: if one is ambiguous, the condition holds for a Deny and fails for an Allow."""

    def evaluate(question: Question) -> bool:
        try:
            return holds(question)
        except AmbiguousVariableError:
            return deny

    return evaluate


def _null(key: ConditionKey, operands: list[str], *, deny: bool) -> Condition:
    wanted = {_bool(each) for each in operands}
    if None in wanted:
        raise MalformedPolicyDocumentException(f"{NULL} takes true (the key is absent) or false, not {operands}.")

    def evaluate(question: Question) -> bool:
        value = key.value(question)
        return (value in (None, [])) in wanted or (deny and isinstance(value, Clash))

    return evaluate
