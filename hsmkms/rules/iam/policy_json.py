"""Decode the JSON of policy documents, and replace principals in them.

Policies are compared and rewritten as decoded documents, never as text: a name can be written in JSON with escapes
without changing. Source: RFC 8259, sections 7 and 8.3.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Final

from hsmkms.errors import MalformedPolicyDocumentException

BYTE_ORDER_MARK: Final = "\ufeff"
_SPARED: Final = "NotPrincipal"
_PRINCIPALS: Final = ("Principal", _SPARED)


def decode(text: str) -> dict[str, Any]:
    """Decode the JSON object of a document, with or without a byte order mark. MalformedPolicyDocumentException."""
    try:
        text = without_mark(text)
        text.encode()
        document = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite_number
        )
    except (ValueError, RecursionError) as exc:
        raise malformed("it is not valid JSON.") from exc
    if not isinstance(document, dict):
        raise malformed("it must be a JSON object.")
    return document


def without_mark(text: str) -> str:
    """Remove the byte order mark that some editors put before UTF-8 text."""
    return text.removeprefix(BYTE_ORDER_MARK)


def statements(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a document; a single one need not be in a list."""
    element = document.get("Statement")
    listed = [element] if isinstance(element, dict) else element
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        raise malformed("Statement must be an object, or a list of at least one.")
    return listed


def replace_principal(text: str, principal: str, replacement: str, *, denied: bool = True) -> str | None:
    """Replace a principal in a key policy; None if the policy does not name it as one.

    ``denied``: also replace it as the Principal of a Deny. Invalid JSON counts as naming no principal. Unknown elements
    stay as they are.
    """
    try:
        document = decode(text)
    except MalformedPolicyDocumentException:
        return None
    replaced = False
    for named in _principals(document, denied=denied):
        for kind, value in named.items():
            entries = value if isinstance(value, list) else [value]
            if principal in entries:
                replaced = True
                named[kind] = [replacement if each == principal else each for each in entries]
    return _encode(document) if replaced else None


def malformed(sentence: str) -> MalformedPolicyDocumentException:
    """Return the error for a document as a whole."""
    return MalformedPolicyDocumentException(f"The policy cannot be used: {sentence}")


def _principals(document: dict[str, Any], *, denied: bool) -> Iterator[dict[str, Any]]:
    """Yield the objects under Principal and NotPrincipal of all statements; a Deny's Principal only if ``denied``."""
    element = document.get("Statement")
    for statement in element if isinstance(element, list) else [element]:
        if isinstance(statement, dict):
            elements = _PRINCIPALS if denied or statement.get("Effect") != "Deny" else (_SPARED,)
            yield from (named for each in elements if isinstance(named := statement.get(each), dict))


def _encode(document: dict[str, Any]) -> str:
    """Encode without escapes, which could make a document longer than a policy may be."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can contain lone surrogates only as escapes
        return json.dumps(document, separators=(",", ":"))
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; a duplicate name is an error, since one of the two would be ignored."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise malformed("an element is there twice in the same place.")
    return members


def _refuse_constant(name: str) -> None:
    raise malformed(f"{name} is not valid JSON.")


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise malformed(f"the number {text[:40]} is too large.")
    return number
