"""Lay out the options in help texts so that none is cut, however narrow the terminal.

typer gives each form of an option (long, short, negative) a column of its own, and Rich cuts what does not fit with an
ellipsis. Here all forms stand in one column that is never wrapped, and other cells are folded.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from typer import rich_utils

_FORMS: Final = 4
"""The columns of typer that hold the forms of an option: long, short, and the same of its negative."""

_CELLS: Final = _FORMS + 2
"""Columns of a row: the forms, the type and the help; a row of a command with required options has one more."""


class _Table(Table):
    """The table of a panel; rows of options are rearranged, others are left as they are."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:  # noqa: ANN401 - handed on
        """Add a row."""
        if len(cells) not in (_CELLS, _CELLS + 1) or not all(isinstance(each, Text | str) for each in cells[:-1]):
            super().add_row(*cells, **options)
            return
        mark, row = cells[:-_CELLS], cells[-_CELLS:]
        lines = [_joined(row[:2]), _joined(row[2:_FORMS])]
        if not self.columns:
            for _ in mark:
                self.add_column(no_wrap=True)
            self.add_column(no_wrap=True)
            self.add_column(overflow="fold")
            self.add_column(overflow="fold", ratio=1)
        super().add_row(*mark, Text("\n").join(each for each in lines if each), *row[_FORMS:], **options)


def _joined(forms: Iterable[RenderableType | None]) -> Text:
    """Join the long and the short form of an option."""
    return Text(", ").join(each if isinstance(each, Text) else Text(str(each)) for each in forms if each)


def join_lines(command: Any) -> None:  # noqa: ANN401 - a command of the click that typer contains
    """Make one line of each paragraph of a command's help text, which would else break where its source does."""
    if isinstance(command.help, str):
        paragraphs = command.help.split("\n\n")
        command.help = "\n\n".join(
            each if each.startswith("Example") else re.sub(r"\n(?=\S)(?!- )", " ", each) for each in paragraphs
        )
    for below in getattr(command, "commands", {}).values():
        join_lines(below)


def never_cut_options() -> None:
    """Make typer's help texts use this layout."""
    rich_utils.Table = _Table  # type: ignore[attr-defined]
