"""Convert the values of options without pydantic.

typer converts every value by pydantic, even the None of an option that was not given. Importing pydantic and making a
validator for each option takes a tenth of a short command's time.
"""

import os
from enum import Enum
from pathlib import Path
from typing import Any, Final

from typer import BadParameter, core

PREFIX_OF_PYDANTIC: Final = "Value error, "
"""Stands before the sentence of a refusal that is typer's own."""

_FILES: Final = ("file://", "fileb://")
_MOST_DIGITS: Final = 18
_typers_own: Final[Any] = getattr(core, "build_runtime_param", None)
"""Makes typer's conversion of an option; None in older releases, which do not use pydantic."""


def avoid_pydantic() -> None:
    """Let typer convert the values of options by ``Coercion``."""
    if _typers_own is not None:
        core.build_runtime_param = Coercion  # type: ignore[assignment,attr-defined]


class Coercion:
    """Converts texts, numbers, lists of texts, readable files and members of an enumeration as typer would.

    Everything else, and each value that is refused, is left to typer. ``descriptor``: typer's own of the option.
    """

    def __init__(self, descriptor: Any) -> None:  # noqa: ANN401 - a type of typer's
        self._descriptor = descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 - typer's names and types
        """Return the value in the type of the option's annotation."""
        kind = self._descriptor.annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if kind in (str, list[str]):
            for each in value if isinstance(value, list | tuple) else (value,):
                _require_text(each)
        if kind in (str, int, Path) and self._is_plain(value):
            return kind(value)
        if kind == list[str] and isinstance(value, list | tuple):
            return [*map(str, value)]
        if isinstance(kind, type) and issubclass(kind, Enum) and value in (each.value for each in kind):
            return kind(value)
        try:
            return _typers_own(self._descriptor).coerce(value, param=param, ctx=ctx)
        except BadParameter as exc:
            exc.message = exc.message.removeprefix(PREFIX_OF_PYDANTIC)
            raise

    def _is_plain(self, value: object) -> bool:
        """Return True if typer would convert this value and find nothing wrong with it."""
        kind, checks = self._descriptor.annotation, self._descriptor.parameter_info
        if kind is int:
            digits = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS
            return (digits or type(value) is int) and checks.min is None and checks.max is None
        if kind is Path:
            more = (
                checks.exists or checks.resolve_path or checks.writable or not checks.file_okay or not checks.dir_okay
            )
            return isinstance(value, str) and not more and os.access(value, os.R_OK)
        return isinstance(value, str)


def _require_text(value: object) -> None:
    """Refuse a value that is not in UTF-8, which Python reads as lone surrogates; the name of a file may be so."""
    if isinstance(value, str) and not (value.isascii() or value.startswith(_FILES)):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadParameter(f"{value!r} is not text in UTF-8: write it in that encoding.") from None
