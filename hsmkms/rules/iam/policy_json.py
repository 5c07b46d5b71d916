"""The JSON of policy documents: decoding, and replacing a principal.

Policies are compared and rewritten as decoded documents, never as text: a name can stand in JSON with escapes, which
change nothing. Source: RFC 8259, sections 7 and 8.3.
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
    """Leave out the byte order mark that some editors put before UTF-8 text."""
    return text.removeprefix(BYTE_ORDER_MARK)


def statements(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a document; one may stand there without a list."""
    found = document.get("Statement")
    held = [found] if isinstance(found, dict) else found
    if not isinstance(held, list) or not held or not all(isinstance(each, dict) for each in held):
        raise malformed("Statement must be an object, or a list of at least one.")
    return held


def replace_principal(text: str, principal: str, replacement: str, *, denied: bool = True) -> str | None:
    """Replace a principal in a key policy; None if the policy does not name it as one.

    ``denied``: also where it is the Principal of a Deny. What is no valid JSON names nobody. Elements that are not
    understood stay as they are.
    """
    try:
        document = decode(text)
    except MalformedPolicyDocumentException:
        return None
    replaced = False
    for named in _principals(document, denied=denied):
        for kind, held in named.items():
            entries = held if isinstance(held, list) else [held]
            if principal in entries:
                replaced = True
                named[kind] = [replacement if each == principal else each for each in entries]
    return _encode(document) if replaced else None


def malformed(sentence: str) -> MalformedPolicyDocumentException:
    """Make the error for a document as a whole."""
    return MalformedPolicyDocumentException(f"The policy cannot be used: {sentence}")


def _principals(document: dict[str, Any], *, denied: bool) -> Iterator[dict[str, Any]]:
    """The objects under Principal and NotPrincipal, wherever a statement can stand; without those whom a Deny means."""
    found = document.get("Statement")
    for statement in found if isinstance(found, list) else [found]:
        if isinstance(statement, dict):
            elements = _PRINCIPALS if denied or statement.get("Effect") != "Deny" else (_SPARED,)
            yield from (named for each in elements if isinstance(named := statement.get(each), dict))


def _encode(document: dict[str, Any]) -> str:
    """Encode without escapes, which could make a document longer than a policy may be."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates can stand in JSON only as escapes
        return json.dumps(document, separators=(",", ":"))
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, in which no name may be there twice: one of them would be ignored."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise malformed("an element is there twice in the same place.")
    return found


def _refuse_constant(name: str) -> None:
    raise malformed(f"{name} is not valid JSON.")


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise malformed(f"the number {text[:40]} is too large.")
    return number
