"""What a condition key is: its name, what kind of value it has, and how that is read from a question."""

from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto

from msgspec import Struct

from hsmkms.rules.iam.question import Question


class Clash(Struct, frozen=True):
    """Values where one is asked for: their keys differ in letter case only, which condition keys ignore.

    Which of them counts cannot be said. So a Deny that asks for it holds, and an Allow only if all of them fit.
    """

    values: tuple[str, ...]


Value = str | bool | int | datetime | list[str] | Clash | None
Reader = Callable[[Question], Value]


class Kind(Enum):
    """What a value is, which decides the operators that fit."""

    WORD = auto()
    FREE = auto()
    """Text of somebody's own, such as the value of a tag: it may hold a number or a date as well."""
    ARN = auto()
    BOOL = auto()
    NUMBER = auto()
    DATE = auto()
    ADDRESS = auto()


class ConditionKey(Struct, frozen=True):
    """One condition key. ``several``: its value is a list. ``absent``: no request here ever has it."""

    name: str
    kind: Kind
    value: Reader
    several: bool = False
    identity_only: bool = False
    absent: bool = False
