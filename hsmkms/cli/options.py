"""Common options of commands, and the output of their results."""

import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from msgspec import Struct

from hsmkms.cli import completion
from hsmkms.cli.output import OutputFormat, Plain, check_format, check_query, default_format, show
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
    typer.Option(
        "--query", metavar="JMESPATH", help="Show only this part.", show_default=False, rich_help_panel=COMMON
    ),
]
AsOption = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="USER",
        help="Act as this user; default: the account's root.",
        autocompletion=completion.users,
        show_default=False,
        rich_help_panel=COMMON,
    ),
]


COMMON_OPTIONS: Final = {
    "config": ConfigOption,
    "region": RegionOption,
    "output": OutputOption,
    "query": QueryOption,
    "user": AsOption,
}
"""The options that commands accept before or after their name, by the member of ``Common`` that each sets."""


def runnable(sentence: str, config: Path) -> str:
    """Insert --config into a sentence's advice about a refused PIN, so that the command can be run as printed."""
    named = f"`hsmkms doctor --config {shlex.quote(str(config.absolute()))} --retry-pin"
    return sentence.replace("`hsmkms doctor --retry-pin", named)


class StatusError(Exception):
    """An error that ends a command with another status than 1."""

    def __init__(self, error: HsmKmsError, status: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.status = status


class Common(Struct, kw_only=True):
    """Options that every command accepts before or after its name; one after the name takes precedence."""

    config: Path | None = None
    region: str | None = None
    output: OutputFormat | None = None
    query: str | None = None
    user: str | None = None

    def over(self, outer: "Common") -> "Common":
        """Return these options, with missing ones taken from ``outer``."""
        mine = {name: getattr(self, name) for name in self.__struct_fields__}
        merged = Common(**{name: getattr(outer, name) if value is None else value for name, value in mine.items()})
        # Before anything is done: a result that cannot be shown might not be available again.
        check_format(merged.output)
        if merged.query is not None:
            check_query(merged.query)
        return merged

    def open(self) -> "Kms":
        """Open the installation."""
        from hsmkms.kms import Kms  # noqa: PLC0415 - help must not pay for the database and the token

        return Kms.open(self.config)

    def caller(self, kms: "Kms") -> "Caller | None":
        """Return the caller: the account's root or the user of --as, in the region of --region; None by default."""
        if self.region is None and self.user is None:
            return None
        return kms.caller(self.region, self.user)

    @property
    def format(self) -> OutputFormat:
        """The requested format, or the default one."""
        return self.output or default_format()

    def show(self, answer: Plain) -> None:
        """Print a result in the requested format."""
        show(answer, self.format, self.query)


def note(sentences: Iterable[str]) -> None:
    """Print notes to standard error, so that results stay machine-readable."""
    for sentence in sentences:
        print(f"hsmkms: note: {sentence}", file=sys.stderr)


def named(value: Struct) -> dict[str, Any]:
    """Convert a struct to a result whose members are named in the API's style (CamelCase)."""
    members: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return {"".join(word.capitalize() for word in name.split("_")): member for name, member in members.items()}


def _refuse_unknown(outer: Any, names: Sequence[str], context: typer.Context) -> None:  # noqa: ANN401 - of typer
    """Raise UsageError for an option before the command's name that would change nothing; --config never does harm."""
    given = [name for name in COMMON_OPTIONS if name != "config" and getattr(outer, name, None) is not None]
    unknown = [f"--{'as' if name == 'user' else name}" for name in given if name not in names]
    if unknown:
        raise typer.BadParameter(f"{context.info_name} does not take {', '.join(unknown)}", ctx=context)


def with_common(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the named common options to a command, and pass it their values as ``common``, its first argument.

    An option before the command's name applies unless it is also given after it. A command that has a parameter
    ``context`` is passed typer's context too.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(function).parameters

        @wraps(function)
        def command(context: typer.Context, **given: Any) -> None:  # noqa: ANN401 - typer reads the signature below
            near = Common(**{name: given.pop(name) for name in names})
            outer: Any = context.obj
            _refuse_unknown(outer, names, context)
            if "context" in parameters:
                given["context"] = context
            function(near.over(outer if isinstance(outer, Common) else Common()), **given)

        own = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in parameters.values()
            if each.name not in ("common", "context")
        ]
        common = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=COMMON_OPTIONS[name], default=None)
            for name in names
        ]
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        command.__signature__ = inspect.Signature([context, *own, *common])  # type: ignore[attr-defined]
        return command

    return decorate
