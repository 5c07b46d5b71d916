"""Check constraints that depend on more than a member's type; the wording is that of ``validate``.

``path`` is the member's place in the request in lower camel case: ``keySpec``, ``tags.1.member.tagKey``.
"""

from enum import StrEnum
from typing import TypeVar

from hsmkms.model.constraints import violation

Word = TypeVar("Word", bound=StrEnum)


def word(words: type[Word], value: str, path: str) -> Word:
    """Return the member of the enumeration with that wire value. ValidationException if there is none."""
    try:
        return words(value)
    except ValueError as exc:
        known = ", ".join(words)
        raise violation(path, value, f"Member must satisfy enum value set: [{known}]") from exc


def check_range(value: int, path: str, lowest: int, highest: int) -> None:
    """Raise ValidationException unless the number is within the range, both ends included."""
    if value < lowest:
        raise violation(path, value, f"Member must have value greater than or equal to {lowest}")
    if value > highest:
        raise violation(path, value, f"Member must have value less than or equal to {highest}")
