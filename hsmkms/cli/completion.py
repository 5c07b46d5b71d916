"""Complete option values in the shell: words of the API, aliases and users of the configured installation."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from hsmkms.errors import HsmKmsError

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings

Complete = Callable[[typer.Context, str], list[str]]
"""Returns the values that begin with what was typed."""


def words(enumeration: type[StrEnum]) -> Complete:
    """Complete the words of an enumeration."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        del context
        return _beginning(incomplete, (each.value for each in enumeration))

    return complete


def aliases(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the aliases of the region; their prefix may be left out."""

    def read(settings: "Settings") -> list[str]:
        from hsmkms.wiring import known_names  # noqa: PLC0415 - only completion of names needs the database

        return known_names.alias_names(settings, _given(context, "region"))

    names = _names(context, read)
    bare = [name.partition("/")[2] for name in names] if not incomplete.startswith("alias/") and incomplete else []
    return _beginning(incomplete, [*names, *bare])


def users(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the users."""

    def read(settings: "Settings") -> list[str]:
        from hsmkms.wiring import known_names  # noqa: PLC0415 - see aliases

        return known_names.user_names(settings)

    return _beginning(incomplete, _names(context, read))


def _beginning(incomplete: str, values: Iterable[str]) -> list[str]:
    return [each for each in values if each.startswith(incomplete)]


def _names(context: typer.Context, read: Callable[["Settings"], list[str]]) -> list[str]:
    """Read names from the installation; none if it cannot be read, since a shell shows no errors while one types."""
    from hsmkms.wiring import core  # noqa: PLC0415 - see aliases

    config = _given(context, "config")
    try:
        return read(core.load_settings(None if config is None else Path(config)))
    except HsmKmsError:
        return []


def _given(context: Any, name: str) -> Any:  # noqa: ANN401 - the context of the click that typer contains
    """Return a common option, after the command's name or before it."""
    while context is not None:
        if context.params.get(name) is not None:
            return context.params[name]
        context = context.parent
    return None


BY_MEMBER: Final[dict[str, Complete]] = {
    "alias_name": aliases,
    "key_id": aliases,
    "source_key_id": aliases,
    "destination_key_id": aliases,
    "target_key_id": aliases,
}
"""How the values of a member are completed that is not an enumeration."""
