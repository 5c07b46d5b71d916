"""Convert the values of options without pydantic.

typer converts every value by pydantic, even the None of an option that was not given. Importing pydantic and making a
validator for each option takes a tenth of a short command's time.
"""

import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from typer import core


def avoid_pydantic() -> None:
    """Let typer convert the values of options by ``Coercion``; older releases of it do not use pydantic."""
    if hasattr(core, "build_runtime_param"):
        build = core.build_runtime_param
        core.build_runtime_param = lambda descriptor: Coercion(descriptor, build)


class Coercion:
    """Converts strings, lists of strings, readable files and members of an enumeration as typer would.

    Everything else, and each value that is refused, is left to typer: ``build`` makes its own conversion of an option
    from typer's ``TypeDescriptor``.
    """

    def __init__(self, descriptor: Any, build: Callable[[Any], Any]) -> None:  # noqa: ANN401 - typer's own types
        self._descriptor = descriptor
        self._build = build

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 - typer's names and types
        """Return the value in the type of the option's annotation."""
        kind = self._descriptor.annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if kind is str and isinstance(value, str):
            return value
        if kind == list[str] and isinstance(value, list | tuple):
            return [*map(str, value)]
        if kind is Path and isinstance(value, str) and self._only_converts(value):
            return Path(value)
        if isinstance(kind, type) and issubclass(kind, Enum) and value in (each.value for each in kind):
            return kind(value)
        return self._build(self._descriptor).coerce(value, param=param, ctx=ctx)

    def _only_converts(self, path: str) -> bool:
        """Return True if typer would convert this path and find nothing wrong with it."""
        checks = self._descriptor.parameter_info
        more = checks.exists or checks.resolve_path or checks.writable or not checks.file_okay or not checks.dir_okay
        return not more and os.access(path, os.R_OK)
