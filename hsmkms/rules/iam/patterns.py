"""Match the patterns of policies: wildcards, ARN patterns and policy variables.

``*`` matches any number of characters and ``?`` one. In documents of version 2012-10-17 ``${aws:username}`` is the
value of a condition key, with a default as in ``${aws:username, 'nobody'}``, and ``${*}``, ``${?}``, ``${$}`` are these
literal characters. Source: IAM User Guide, "Policy variables" and "Condition operators".
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.rules.iam import condition_keys
from hsmkms.rules.iam.condition_key import Clash, ConditionKey
from hsmkms.rules.iam.question import Question

Matcher = Callable[[str, Question], bool]
"""Takes a text and the question from which policy variables get their values."""

_ARN_PARTS: Final = 6
_named: Final = re.compile(r"\s*([^,\s]+)\s*(?:,\s*'([^']*)'\s*)?").fullmatch
_ITSELF: Final = frozenset("*?$")


class AmbiguousVariableError(Exception):
    """The value of a policy variable is a Clash: several values, none of which can be chosen."""


class _Plain(Struct, frozen=True):
    """Literal characters."""

    text: str


class _Variable(Struct, frozen=True):
    """A policy variable: the value of a condition key, or the default."""

    key: ConditionKey
    default: str | None


_Part = str | _Plain | _Variable
"""A plain string may contain wildcards."""

MAX_KNOWN: Final = 256
"""Cache limit, for each pattern of ARNs, in values that were matched; when it is reached the cache is cleared."""


class Template(Struct, frozen=True):
    """A text of a policy, split into text, literals and variables."""

    parts: tuple[_Part, ...]

    @classmethod
    def read(cls, text: str, *, variables: bool) -> "Template":
        """Split a text. MalformedPolicyDocumentException for a variable that hsmkms cannot evaluate."""
        if not variables:
            return cls((text,))
        pieces = _cut(text)
        parts: list[_Part] = [each if place % 2 == 0 else _variable_of(each) for place, each in enumerate(pieces)]
        if "${" in pieces[-1]:
            raise MalformedPolicyDocumentException(f"{text!r} has a policy variable without its end: write ${{NAME}}.")
        return cls(tuple(each for each in parts if each))

    @property
    def fixed(self) -> bool:
        """True if it has no variables."""
        return not any(isinstance(each, _Variable) for each in self.parts)

    def text(self, question: Question | None = None) -> str | None:
        """Return the text with variables replaced and wildcards as literals; None if a variable has no value."""
        pieces: list[str] = []
        for each in self.parts:
            value = _value(each, question)
            if value is None:
                return None
            pieces.append(value)
        return "".join(pieces)

    def expression(self, question: Question | None = None) -> str | None:
        """Return the equivalent regular expression; None if a variable has no value."""
        pieces = [""]
        for each in self.parts:
            value = _value(each, question)
            if value is None:
                return None
            first, *others = map(_one_wild, value.split("*")) if isinstance(each, str) else [re.escape(value)]
            pieces[-1] += first
            pieces += others
        return _expression(pieces)


def equal_to(template: Template) -> Matcher:
    """Return a matcher of exactly this text."""
    if template.fixed:
        text = template.text()
        return lambda value, _: value == text
    return lambda value, question: value == template.text(question)


def equal_ignoring_case(template: Template) -> Matcher:
    """Return a matcher of this text in any letter case."""
    if template.fixed:
        text = (template.text() or "").lower()
        return lambda value, _: value.lower() == text

    def match(value: str, question: Question) -> bool:
        text = template.text(question)
        return text is not None and value.lower() == text.lower()

    return match


def like(template: Template) -> Matcher:
    """Return a matcher with wildcards."""
    if template.fixed:
        fullmatch = _compiled(template.expression() or "").fullmatch
        return lambda value, _: fullmatch(value) is not None

    def match(value: str, question: Question) -> bool:
        expression = template.expression(question)
        return expression is not None and _compiled(expression).fullmatch(value) is not None

    return match


def arn_like(text: str, *, variables: bool) -> Matcher:
    """Return a matcher of ARNs part by part, so that wildcards do not match colons except in the last part.

    MalformedPolicyDocumentException if the text is neither an ARN nor ``*``.
    """
    if text == "*":
        return lambda _, __: True
    pieces = _split(text)
    if len(pieces) != _ARN_PARTS or not _could_be("arn", pieces[0]):
        raise MalformedPolicyDocumentException(f"{text!r} is no ARN: six parts with colons between them, or *.")
    templates = [Template.read(each, variables=variables) for each in pieces]
    matchers = [like(each) for each in templates]

    def match(value: str, question: Question) -> bool:
        parts = value.split(":", _ARN_PARTS - 1)
        return len(parts) == _ARN_PARTS and all(
            matches(part, question) for matches, part in zip(matchers, parts, strict=True)
        )

    if not all(each.fixed for each in templates):
        return match
    known: dict[str, bool] = {}

    def match_once(value: str, question: Question) -> bool:
        """Match a value as before: the result does not depend on the question."""
        result = known.get(value)
        if result is None:
            if len(known) >= MAX_KNOWN:
                known.clear()
            result = known[value] = match(value, question)
        return result

    return match_once


def settled(match: Matcher, *, deny: bool) -> Matcher:
    """Wrap a matcher: if a variable is ambiguous, it matches for a Deny and does not match for an Allow."""

    def decided(value: str, question: Question) -> bool:
        try:
            return match(value, question)
        except AmbiguousVariableError:
            return deny

    return decided


def any_of(matchers: Sequence[Matcher]) -> Matcher:
    """Return a matcher of everything that one of the matchers matches."""
    if len(matchers) == 1:
        return matchers[0]
    return lambda value, question: any(each(value, question) for each in matchers)


def _split(text: str) -> list[str]:
    """Split an ARN pattern at its colons, except those inside variables."""
    pieces = _cut(text)
    pieces[1::2] = [f"${{{each}}}".replace(":", "\0") for each in pieces[1::2]]
    return [each.replace("\0", ":") for each in "".join(pieces).split(":", _ARN_PARTS - 1)]


def _cut(text: str) -> list[str]:
    """Split a text into pieces outside and inside of policy variables, alternately; inside ones are at odd indexes.

    It runs in linear time. A regular expression would take quadratic time for text in which many variables begin and
    none ends.
    """
    pieces, done = list[str](), 0
    while (begins := text.find("${", done)) >= 0 and (ends := text.find("}", begins)) >= 0:
        pieces += [text[done:begins], text[begins + 2 : ends]]
        done = ends + 1
    return [*pieces, text[done:]]


def _could_be(word: str, pattern: str) -> bool:
    return _compiled(Template((pattern,)).expression() or "").fullmatch(word) is not None


def _variable_of(inner: str) -> _Plain | _Variable:
    if inner in _ITSELF:
        return _Plain(inner)
    named = _named(inner)
    if named is None:
        raise MalformedPolicyDocumentException(f"${{{inner}}} is no policy variable: write ${{aws:username}}.")
    key = condition_keys.find(named.group(1))
    if key.several:
        raise MalformedPolicyDocumentException(f"${{{inner}}} cannot be a policy variable: it has several values.")
    return _Variable(key, named.group(2))


def _value(part: _Part, question: Question | None) -> str | None:
    if isinstance(part, str):
        return part
    if isinstance(part, _Plain):
        return part.text
    value = part.key.value(question) if question is not None else None
    if isinstance(value, Clash):
        raise AmbiguousVariableError(part.key.name)
    return value if isinstance(value, str) else part.default


def _one_wild(text: str) -> str:
    """Return the regular expression of a text without stars."""
    return ".".join(map(re.escape, text.split("?")))


def _expression(pieces: Sequence[str]) -> str:
    """Join the pieces with "anything" between them; atomic groups avoid backtracking, so that refusals are fast."""
    first, *others = pieces
    if not others:
        return first
    *inner, last = others
    return first + "".join(f"(?>.*?{each})" for each in inner) + f".*{last}"


def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.DOTALL)
