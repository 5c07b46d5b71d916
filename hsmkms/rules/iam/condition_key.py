"""Define condition keys: name, kind of value, and the function that reads the value from a question."""

from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto

from msgspec import Struct

from hsmkms.rules.iam.question import Question


class Clash(Struct, frozen=True):
    """Several values in place of one: their keys differ only in letter case, which condition keys ignore.

    It is undefined which of them counts. So the condition of a Deny holds, and that of an Allow only if all values fit.
    """

    values: tuple[str, ...]


Value = str | bool | int | datetime | list[str] | Clash | None
Reader = Callable[[Question], Value]


class Kind(Enum):
    """Kind of a value, which decides the operators that fit."""

    WORD = auto()
    FREE = auto()
    """User-defined text, such as the value of a tag: it may also contain a number or a date."""
    ARN = auto()
    BOOL = auto()
    NUMBER = auto()
    DATE = auto()
    ADDRESS = auto()


class ConditionKey(Struct, frozen=True):
    """A condition key. ``several``: its value is a list. ``absent``: no request to hsmkms ever has it."""

    name: str
    kind: Kind
    value: Reader
    several: bool = False
    identity_only: bool = False
    absent: bool = False
