"""Constraints that depend on more than a member's type, for rules to check; the wording is that of ``validate``.

``path`` is the member's place in the request in lower camel case: ``keySpec``, ``tags.1.member.tagKey``.
"""

from enum import StrEnum
from typing import TypeVar

from hsmkms.model.constraints import violation

Word = TypeVar("Word", bound=StrEnum)


def word(words: type[Word], value: str, path: str) -> Word:
    """The member of the enumeration with that wire word."""
    try:
        return words(value)
    except ValueError as exc:
        known = ", ".join(words)
        raise violation(path, value, f"Member must satisfy enum value set: [{known}]") from exc


def check_range(value: int, path: str, lowest: int, highest: int) -> None:
    """A number must lie between both ends, which belong to the range."""
    if value < lowest:
        raise violation(path, value, f"Member must have value greater than or equal to {lowest}")
    if value > highest:
        raise violation(path, value, f"Member must have value less than or equal to {highest}")
