"""Define the options of the aws CLI that its commands have besides the members of a request."""

from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from msgspec import Struct

from hsmkms.cli.api.values import BinaryFormat

PANEL: Final = "Options of the aws CLI"


class Skeleton(StrEnum):
    """The value of ``--generate-cli-skeleton``."""

    INPUT = "input"
    OUTPUT = "output"


class AwsOptions(Struct, frozen=True, kw_only=True):
    """The values of these options: how bytes are written, members of the request as JSON, and what to print instead."""

    cli_binary_format: BinaryFormat = BinaryFormat.BASE64
    cli_input_json: str | None = None
    generate_cli_skeleton: Skeleton | None = None


def _option(name: str, kind: Any, text: str, **more: Any) -> Any:  # noqa: ANN401 - types of many kinds
    described = typer.Option(name, help=text, show_default=False, rich_help_panel=PANEL, **more)
    return Annotated[kind, described]


FOR_ALL: Final = {
    "cli_binary_format": _option(
        "--cli-binary-format", BinaryFormat | None, "How bytes are written in options; default: base64."
    ),
    "cli_input_json": _option(
        "--cli-input-json", str | None, "Members of the request as JSON or file://FILE; options win.", metavar="JSON"
    ),
    "generate_cli_skeleton": _option(
        "--generate-cli-skeleton", Skeleton | None, "Print a sample of the request or of the answer; do nothing."
    ),
}
"""The options of every command of the API, by the member of ``AwsOptions`` that each sets."""

FOR_LISTS: Final = {
    "max_items": _option("--max-items", int | None, "Show so many entries, and a NextToken.", metavar="NUMBER", min=1),
    "page_size": _option("--page-size", int | None, "Entries of a request.", metavar="NUMBER", min=1, max=1000),
    "starting_token": _option("--starting-token", str | None, "The NextToken of an answer.", metavar="TOKEN"),
    "no_paginate": _option("--no-paginate", bool, "Show the first page only."),
}
"""The options of commands that list, by the member of ``Paging`` that each sets."""


def taken(given: dict[str, Any], kind: type[Struct]) -> Any:  # noqa: ANN401 - an AwsOptions or a Paging
    """Take the members of a struct out of a command's parameters."""
    values = {name: given.pop(name) for name in kind.__struct_fields__ if name in given}
    return kind(**{name: value for name, value in values.items() if value is not None})
