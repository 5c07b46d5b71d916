"""One run of a command: its common options, its answer, its errors."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from msgspec import Struct

from hsmkms.cli.output import OutputFormat, Plain, check_query, default_format, show
from hsmkms.errors import HsmKmsError

if TYPE_CHECKING:
    from hsmkms.kms import Kms
    from hsmkms.model.caller import Caller

COMMON: Final = "Common options"

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration file.", show_default=False, rich_help_panel=COMMON),
]
RegionOption = Annotated[
    str | None,
    typer.Option("--region", help="Region; default: the configured one.", show_default=False, rich_help_panel=COMMON),
]
OutputOption = Annotated[
    OutputFormat | None,
    typer.Option(
        "--output", help="Default: table at a terminal, else json.", show_default=False, rich_help_panel=COMMON
    ),
]
QueryOption = Annotated[
    str | None,
    typer.Option("--query", metavar="JMESPATH", help="Show a part.", show_default=False, rich_help_panel=COMMON),
]
AsOption = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="USER",
        help="Act as this user; default: the account's root.",
        show_default=False,
        rich_help_panel=COMMON,
    ),
]


def runnable(sentence: str, config: Path) -> str:
    """A sentence whose advice about a refused PIN names the configuration, where no command would find it otherwise."""
    named = f"`hsmkms doctor --config {shlex.quote(str(config.absolute()))} --retry-pin"
    return sentence.replace("`hsmkms doctor --retry-pin", named)


class StatusError(Exception):
    """An error that ends a command with another status than 1."""

    def __init__(self, error: HsmKmsError, status: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.status = status


class Common(Struct, kw_only=True):
    """What every command takes, before or after its name; the nearer one wins."""

    config: Path | None = None
    region: str | None = None
    output: OutputFormat | None = None
    query: str | None = None
    user: str | None = None

    def over(self, outer: "Common") -> "Common":
        """These options, and the outer ones where these say nothing."""
        mine = {name: getattr(self, name) for name in self.__struct_fields__}
        merged = Common(**{name: getattr(outer, name) if value is None else value for name, value in mine.items()})
        if merged.query is not None:
            # Before anything is done: an answer that cannot be shown may be the only one.
            check_query(merged.query)
        return merged

    def open(self) -> "Kms":
        """Open the installation."""
        from hsmkms.kms import Kms  # noqa: PLC0415 - help must not pay for the database and the token

        return Kms.open(self.config)

    def caller(self, kms: "Kms") -> "Caller | None":
        """The account's root, or the user that was named, in the region that was asked for."""
        if self.region is None and self.user is None:
            return None
        return kms.caller(self.region, self.user)

    def show(self, answer: Plain) -> None:
        """Print an answer as was asked for."""
        show(answer, self.output or default_format(), self.query)


def note(sentences: Iterable[str]) -> None:
    """Print notes where answers are not read by programs."""
    for each in sentences:
        print(f"hsmkms: note: {each}", file=sys.stderr)


def named(value: Struct) -> dict[str, Any]:
    """A struct of ours as an answer: its members' names as the API would write them."""
    members: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return {"".join(word.capitalize() for word in name.split("_")): held for name, held in members.items()}


def outer_options(context: typer.Context) -> Common:
    """The options that stood before the command's name."""
    held: Any = context.obj
    return held if isinstance(held, Common) else Common()
