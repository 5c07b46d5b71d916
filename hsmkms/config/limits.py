"""Declare the limit of a setting in its type, as ``Annotated[int, between(1, 256)]``, and check settings against them.

``broken`` walks the settings in the order of the tables and describes each value that breaks its limit. Unlike
``msgspec.Meta``, whose messages show neither the value nor the whole range, this also checks settings that were
constructed in the program.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct


class Limit(Struct, frozen=True):
    """A predicate, and the end of the message about a value that fails it. Applies to each item of a tuple or table."""

    fits: Callable[[Any], bool]
    otherwise: str


def between(lowest: float, highest: float) -> Limit:
    """Allow a range of numbers, both ends included."""
    return Limit(lambda value: lowest <= value <= highest, f"must be from {lowest} to {highest}")


def off_or_between(lowest: float, highest: float) -> Limit:
    """Allow a range of numbers, both ends included, or 0 to switch off."""
    return Limit(lambda value: value == 0 or lowest <= value <= highest, f"must be 0 or from {lowest} to {highest}")


def above_zero(highest: float) -> Limit:
    """Allow numbers above 0, up to ``highest``."""
    return Limit(lambda value: 0 < value <= highest, f"must be more than 0, and {highest} at most")


def one_of(words: Iterable[str]) -> Limit:
    """Allow one of several words."""
    *most, last = words
    return Limit(lambda value: value in (*most, last), f"must be {', '.join(most)} or {last}")


def matching(expression: str, otherwise: str) -> Limit:
    """Allow texts that a regular expression matches as a whole."""
    compiled: Final = re.compile(expression)
    return Limit(lambda value: compiled.fullmatch(value) is not None, otherwise)


def broken(settings: Struct, table: str = "") -> Iterator[str]:
    """Yield a sentence for each value that breaks its limit. ``table``: the name of the settings' table in the file."""
    for name, name_in_file, limits in _members(type(settings)):
        value, path = getattr(settings, name), f"{table}.{name_in_file}".lstrip(".")
        if isinstance(value, Struct):
            yield from broken(value, path)
        for limit in limits if value is not None else ():
            if isinstance(value, tuple):
                yield from (f"{path}: {item!r} {limit.otherwise}" for item in value if not limit.fits(item))
            elif isinstance(value, dict):
                yield from (
                    f"{path}.{key} = {item!r} {limit.otherwise}" for key, item in value.items() if not limit.fits(item)
                )
            elif not limit.fits(value):
                yield f"{path} = {value!r} {limit.otherwise}"


@cache
def _members(kind: type[Struct]) -> Sequence[tuple[str, str, Sequence[Limit]]]:
    """Return the members of a type of settings: the name, the name in the file, and the limits."""
    hints = get_type_hints(kind, include_extras=True)
    return [(each.name, each.encode_name, [*_limits_of(hints[each.name])]) for each in msgspec.structs.fields(kind)]


def _limits_of(hint: Any) -> Iterator[Limit]:  # noqa: ANN401 - a type of any kind
    if get_origin(hint) is Annotated:
        yield from (each for each in get_args(hint)[1:] if isinstance(each, Limit))
