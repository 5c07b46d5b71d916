"""Constraints of the API's members, and the check that reports all violations of a request at once.

The members of request types have Python types; further constraints of the API are given as ``Annotated`` metadata.
``validate`` compiles them once per type. Wording: AWS KMS API Reference, "Common errors", and answers of the service.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from hsmkms.errors import ValidationException

SHOWN: Final = 1024
"""Longest part of an invalid value, in characters, that a message repeats."""

SHOWN_BITS: Final = 64
"""Larger numbers are not repeated."""

PAIR_BYTES: Final = 8
"""Bytes of the two length fields of a pair in the canonical form of an encryption context."""

MUST_NOT_BE_NULL: Final = "Member must not be null"

MAX_VALID: Final = 1024
"""Cache limit, for each type of request, in combinations of members that were found valid."""

MOST_LISTED: Final = 50
"""Most violations that a message lists, to bound its length. All are counted."""

Report = Callable[[str, Any, str], None]
"""Takes the path of a member, its value, and the violated constraint."""
Check = Callable[[Any, str, Report], None]
"""Takes a value, its path, and the function to report violations to."""


class Length(Struct, frozen=True):
    """Number of characters, bytes or entries, both ends included."""

    shortest: int
    longest: int

    def check(self, value: Any, path: str, report: Report) -> None:  # noqa: ANN401 - anything that has a length
        """Report a value that is too short or too long."""
        if len(value) < self.shortest:
            report(path, value, f"Member must have length greater than or equal to {self.shortest}")
        elif len(value) > self.longest:
            report(path, value, f"Member must have length less than or equal to {self.longest}")


class Range(Struct, frozen=True):
    """A number, both ends included."""

    lowest: int
    highest: int

    def check(self, value: int, path: str, report: Report) -> None:
        """Report a number that is too small or too large."""
        if value < self.lowest:
            report(path, value, f"Member must have value greater than or equal to {self.lowest}")
        elif value > self.highest:
            report(path, value, f"Member must have value less than or equal to {self.highest}")


class Pattern(Struct, frozen=True):
    """A regular expression that the whole text must match."""

    expression: str

    def check(self, value: str, path: str, report: Report) -> None:
        """Report a text that does not match."""
        if _compiled(self.expression).fullmatch(value) is None:
            report(path, value, f"Member must satisfy regular expression pattern: {self.expression}")


class OneOf(Struct, frozen=True):
    """A word of an enumeration."""

    words: type[StrEnum]

    def check(self, value: str, path: str, report: Report) -> None:
        """Report a word that is not one of them."""
        if value not in _values(self.words):
            report(path, value, f"Member must satisfy enum value set: [{', '.join(self.words)}]")


class Text(Struct, frozen=True):
    """Valid Unicode, without lone surrogates. Checked for every string."""

    def check(self, value: str, path: str, report: Report) -> None:
        """Report a string that cannot be encoded, without repeating it."""
        if not value.isascii() and not _is_text(value):
            report(path, value, "Member must hold Unicode characters only")


class Total(Struct, frozen=True):
    """Most bytes of a map of texts: all keys and values, and 8 for each pair. A character counts as one byte.

    The API's model has no such bound. It is checked before anything uses the map, such as authorisation. That keys and
    values are valid Unicode is checked with it: in most maps all are ASCII, which is seen for all of them at once.
    """

    longest: int

    def check(self, value: Mapping[str, str], path: str, report: Report) -> None:
        """Report a map that is too large in any encoding of its characters, and keys and values that are no text."""
        texts = "".join([*value, *value.values()])
        if len(texts) + PAIR_BYTES * len(value) > self.longest:
            report(path, value, f"Member must have at most {self.longest} bytes in all its keys and values")
        if not texts.isascii():
            _check_texts(value, path, report)


Constraint = Length | Range | Pattern | OneOf | Text | Total


class Sensitive(Struct, frozen=True):
    """Marks a member whose value must not be in a message. Values of bytes, lists, maps and structures never are."""


class Width(Struct, frozen=True):
    """Marks the largest average number of bytes that a character of a string takes in JSON. Not checked."""

    bytes_per_character: int


def validate(request: Struct) -> None:
    """Raise one ValidationException that lists the constraints that the request violates, at most the first 50.

    Responses can be checked in the same way.
    """
    plan = _plan(type(request))
    repeated = plan.read(request)
    if repeated in plan.valid and _pass(request, plan.others):
        return
    broken = _violations(request, _compile(type(request)))
    if broken:
        raise ValidationException(_message(broken))
    if all(type(each) is not str or len(each) <= SHOWN for each in repeated):
        if len(plan.valid) >= MAX_VALID:
            plan.valid.clear()
        plan.valid.add(repeated)


def _pass(request: Struct, members: "tuple[_Member, ...]") -> bool:
    """Return True if these members violate nothing."""
    try:
        for name, path, required, checks in members:
            value = getattr(request, name)
            if value is not None:
                for check in checks:
                    check(value, path, _interrupt)
            elif required:
                return False
    except _ViolatedError:
        return False
    return True


class _ViolatedError(Exception):
    """Raised to stop checking at the first violation."""


def _interrupt(_path: str, _value: object, _constraint: str) -> None:
    raise _ViolatedError


def _violations(request: Struct, members: "tuple[_Member, ...]") -> list[str]:
    """Return a sentence for each violation of these members, at most the first 50, and then empty ones."""
    broken: list[str] = []

    def report(path: str, value: object, constraint: str) -> None:
        broken.append(_sentence(path, value, constraint) if len(broken) < MOST_LISTED else "")

    for name, path, required, checks in members:
        value = getattr(request, name)
        if value is None:
            if required:
                broken.append(_sentence(path, None, MUST_NOT_BE_NULL))
        else:
            for check in checks:
                check(value, path, report)
    return broken


def violation(path: str, value: object, constraint: str) -> ValidationException:
    """Make the error for one member that violates one constraint; for checks that are not expressed in types."""
    return ValidationException(_message([_sentence(path, value, constraint)]))


def required_members(request: type[Struct]) -> frozenset[str]:
    """Return the attribute names of the required members."""
    return frozenset(name for name, _, required, _ in _compile(request) if required)


def enumeration(kind: Any) -> type[StrEnum] | None:  # noqa: ANN401 - a type, perhaps annotated or optional
    """Return the enumeration of a member's words, or of the words in its list; None if any text is possible."""
    for each in (*getattr(kind, "__metadata__", ()), *get_args(kind)):
        words = each.words if isinstance(each, OneOf) else enumeration(each)
        if words is not None:
            return words
    return None


def wire_path(wire_name: str) -> str:
    """Return a member's name in messages: ``keyId`` for ``KeyId``."""
    return wire_name[:1].lower() + wire_name[1:]


def _message(broken: list[str]) -> str:
    errors = "error" if len(broken) == 1 else "errors"
    return f"{len(broken)} validation {errors} detected: {'; '.join(broken[:MOST_LISTED])}"


def _sentence(path: str, value: object, constraint: str) -> str:
    return f"Value{_shown(value)} at '{path}' failed to satisfy constraint: {constraint}"


def _shown(value: object) -> str:
    if value is None:
        return " null"
    if isinstance(value, int):
        return f" '{value}'" if value.bit_length() <= SHOWN_BITS else ""
    return f" '{value[:SHOWN]}'" if isinstance(value, str) and _is_text(value) else ""


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.ASCII)  # as ``\w`` is in Java, whose syntax the model uses


@cache
def _values(words: type[StrEnum]) -> frozenset[str]:
    return frozenset(words)


_Member = tuple[str, str, bool, tuple[Check, ...]]
"""A member's attribute, its path, whether it is required, and its checks."""

_SCALARS: Final = frozenset({str, int, bool})


class _Plan(Struct):
    """How a type's members are checked: those that many requests have in common are checked once for each combination.

    ``read`` returns the values of the scalar members; ``valid``: combinations that passed; ``others``: bytes, lists and
    maps, which are checked each time.
    """

    read: Callable[[Struct], tuple[Any, ...]]
    valid: set[tuple[Any, ...]]
    others: tuple[_Member, ...]


@cache
def _plan(kind: type[Struct]) -> _Plan:
    hints = get_type_hints(kind)
    scalars = [each[0] for each in _compile(kind) if _types(hints[each[0]]) <= _SCALARS]
    others = tuple(each for each in _compile(kind) if each[0] not in scalars)
    read = (
        attrgetter(*scalars) if len(scalars) > 1 else lambda request: tuple(getattr(request, each) for each in scalars)
    )
    return _Plan(read, set(), others)


def _types(hint: Any) -> set[Any]:  # noqa: ANN401 - a type
    """Return the types of a member's values, without None."""
    return {*(get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))} - {type(None)}


@cache
def _compile(kind: type[Struct]) -> tuple[_Member, ...]:
    """Return the members of a type with their checks."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        (
            field.name,
            wire_path(field.encode_name),
            not _optional(hints[field.name]),
            _checks_of(hints[field.name]),
        )
        for field in msgspec.structs.fields(kind)
    )


def _optional(hint: Any) -> bool:  # noqa: ANN401 - a type
    return get_origin(hint) in (Union, UnionType) and type(None) in get_args(hint)


def _checks_of(hint: Any) -> tuple[Check, ...]:  # noqa: ANN401 - a type
    """Build the checks of a member, an entry of a list, or a whole structure."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(each for each in get_args(hint) if each is not type(None))
    constraints: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        constraints = tuple(metadata)
    if hint is str:
        constraints = (*constraints, Text())
    checks: list[Check] = [each.check for each in constraints if isinstance(each, Constraint)]
    inner = _inner_check(hint)
    if inner is not None and not any(isinstance(each, Total) for each in constraints):
        checks.append(inner)
    if hint is not bytes and any(isinstance(each, Sensitive) for each in constraints):  # bytes are shown in no case
        checks = [_hiding(each) for each in checks]
    return tuple(checks)


def _inner_check(hint: Any) -> Check | None:  # noqa: ANN401 - a type
    if get_origin(hint) is list:
        entry = _checks_of(get_args(hint)[0])
        return _each(entry) if entry else None
    if get_origin(hint) is dict:
        key, value = (_checks_of(each) for each in get_args(hint))
        return _each_pair(key, value) if key or value else None
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _structure(hint)
    return None


def _each(entry: tuple[Check, ...]) -> Check:
    def check(value: list[Any], path: str, report: Report) -> None:
        for number, each in enumerate(value, start=1):
            for inner in entry:
                inner(each, f"{path}.{number}.member", report)

    return check


def _each_pair(key: tuple[Check, ...], value: tuple[Check, ...]) -> Check:
    def check(pairs: dict[Any, Any], path: str, report: Report) -> None:
        for number, (name, member) in enumerate(pairs.items(), start=1):
            for inner in key:
                inner(name, f"{path}.{number}.key", report)
            for inner in value:
                inner(member, f"{path}.{number}.value", report)

    return check


_check_texts: Final = _each_pair((Text().check,), (Text().check,))


def _structure(kind: type[Struct]) -> Check:
    def check(value: Struct, path: str, report: Report) -> None:
        for name, inner_path, required, checks in _compile(kind):
            member = getattr(value, name)
            if member is None:
                if required:
                    report(f"{path}.{inner_path}", None, MUST_NOT_BE_NULL)
            else:
                for inner in checks:
                    inner(member, f"{path}.{inner_path}", report)

    return check


def _hiding(inner: Check) -> Check:
    def check(value: Any, path: str, report: Report) -> None:  # noqa: ANN401 - as the check takes it
        inner(value, path, lambda where, _, constraint: report(where, b"", constraint))

    return check
