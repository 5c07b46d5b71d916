"""Format answers as tables for people at a terminal: dates as dates, ids in one piece, wide columns folded."""

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

Value = None | bool | int | float | str | list[Any] | dict[str, Any]

MOST_COLUMNS: Final = 4
"""A row with more members than these, or with nested ones, is shown as a table of its own."""

MOST_BOXED: Final = 500
"""More wide rows than these are printed as plain lines: boxes take two milliseconds a row."""

_DATE_SUFFIXES: Final = ("Date", "ValidTo", "Timestamp")
_WORD_WIDTH: Final = 10
"""A column is at least so wide, or as wide as its longest word; ids, commands and options are never folded."""

_iso_instant: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z").fullmatch
_id: Final = re.compile(r"(?:mrk-)?[0-9a-f]{32,64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_command: Final = re.compile(r"[`(]?(?:--)?[a-z]{2,16}(?:-[a-z]{2,16}){1,4}[`.,:;)]*").fullmatch
_HALF: Final = 32
_long_id: Final = re.compile(r"[0-9a-f]{64},?").fullmatch
_arn: Final = re.compile(r"(arn:\S*?[:/])([^:/\s]+)").fullmatch


class Timestamp(float):
    """An instant, in seconds since 1970; a number for queries, and a date in tables."""


Timestamp.__name__ = "float"  # by which JMESPath recognises a number


class WideRows(list[dict[str, Any]]):
    """Rows that have one line each, whatever the number of their members.

    ``stacks``: the members that are put below each other where the terminal is too narrow for a column each.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], stacks: Sequence[Sequence[str]]) -> None:
        super().__init__(rows)
        self.stacks = stacks


def with_timestamps(value: Any, name: str = "") -> Any:  # noqa: ANN401 - any part of an answer
    """Return an answer in which the numbers that are dates, by the names of their members, are timestamps."""
    if isinstance(value, WideRows):
        return value
    if isinstance(value, dict):
        return {member: with_timestamps(each, member) for member, each in value.items()}
    if isinstance(value, list):
        return [with_timestamps(each) for each in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Timestamp(value) if is_number and name.endswith(_DATE_SUFFIXES) else value


def console() -> Any:  # noqa: ANN401 - rich is lazy
    """Return a console on standard output, as wide as the terminal."""
    from rich.console import Console  # noqa: PLC0415 - only tables need it

    size = shutil.get_terminal_size()  # which Rich takes for 80 x 25 at a dumb terminal
    return Console(highlight=False, width=size.columns, height=size.lines)


def print_table(answer: Value) -> None:
    """Print an answer: its scalars, then each of its structures and lists."""
    screen = console()
    if isinstance(answer, dict):
        for name, value in _members(answer).items():
            if isinstance(value, WideRows) and len(value) > MOST_BOXED:
                print_aligned([list(value[0]), *([plain(each) for each in row.values()] for row in value)])
            else:
                screen.print(_section(name, value, screen.width))
    elif answer is not None:
        screen.print(_section(None, answer, screen.width))


def print_aligned(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as lines of aligned columns, which are never broken or cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def plain(value: Value) -> str:
    """Format a value for people: timestamps as dates, maps on lines, control characters escaped."""
    if isinstance(value, Timestamp):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "-"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {plain(each)}" for key, each in value.items())
    if isinstance(value, str) and (instant := _iso_instant(value)):
        return f"{instant[1]} {instant[2]} UTC"
    return "-" if value is None else printable(str(value))


def printable(text: str) -> str:
    """Escape the control characters of a text, which would command the terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)


def is_rows(value: Value) -> bool:
    """Return True for a list of structures that is not empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _members(answer: dict[str, Any]) -> dict[str | None, Any]:
    """Split an answer into the sections of its table: first all its scalars together, then each structure by name.

    An answer that is one structure has that one's name as its title, which a query must begin with.
    """
    wrapper = None
    if len(answer) == 1 and isinstance(next(iter(answer.values())), dict):
        wrapper, answer = next(iter(answer.items()))
    sections = {name: value for name, value in answer.items() if is_rows(value) or isinstance(value, dict)}
    scalars = {name: value for name, value in answer.items() if name not in sections and value is not False}
    return ({wrapper: scalars} if scalars else {}) | sections


def _section(name: str | None, value: Any, width: int) -> Any:  # noqa: ANN401 - rich is lazy
    from rich.console import Group  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    if isinstance(value, WideRows):
        return _wide_table(value, name, width)
    if isinstance(value, dict):
        return _pairs_table(value, name, width)
    if not is_rows(value):
        return Text(plain(value))
    names = list(dict.fromkeys(member for row in value for member in row))
    cells = [[plain(row.get(each, "")) for each in names] for row in value]
    if len(names) <= MOST_COLUMNS and not any(isinstance(each, dict) for row in value for each in row.values()):
        widths = _widths([names, *cells], width)
        if widths is not None:
            return _grid(cells, names, name, widths)
    return Group(*(_pairs_table(row, name, width) for row in value))


def _wide_table(rows: WideRows, title: str | None, width: int) -> Any:  # noqa: ANN401 - rich is lazy
    """Make a table with a column for each member, or for each stack, or a table for each row: the first that fits."""
    from rich.console import Group  # noqa: PLC0415 - see above

    names = [each for stack in rows.stacks for each in stack]
    cells = [[plain(row[each]) for each in names] for row in rows]
    widths = _widths([names, *cells], width)
    if widths is None:
        names = ["\n".join(stack) for stack in rows.stacks]
        cells = [["\n".join(plain(row[each]) for each in stack) for stack in rows.stacks] for row in rows]
        widths = _widths([names, *cells], width)
    if widths is None:
        return Group(*(_pairs_table(row, title, width) for row in rows))
    return _grid(cells, names, title, widths)


def _pairs_table(pairs: Mapping[str, Value], title: str | None, width: int) -> Any:  # noqa: ANN401 - rich is lazy
    """Make a table with a line for each member."""
    cells = [[name, plain(value)] for name, value in pairs.items()]
    return _grid(cells, None, title, _widths(cells, width))


def _grid(
    cells: Sequence[Sequence[str]], names: Sequence[str] | None, title: str | None, widths: Sequence[int] | None
) -> Any:  # noqa: ANN401 - rich is lazy
    """Make a table; without widths its columns are as Rich chooses them, and long values are folded, never cut."""
    from rich.markup import escape  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    count = len(names or cells[0]) if names or cells else 2
    title = None if title is None else escape(title)
    table = Table(title=title, title_justify="left", show_header=names is not None, show_lines=_are_stacked(names))
    for index in range(count):
        width = None if widths is None else widths[index]
        table.add_column(Text(names[index]) if names is not None else "", overflow="fold", width=width)
    for row in cells:
        broken = row if widths is None else [_broken(*each) for each in zip(row, widths, strict=True)]
        table.add_row(*map(Text, broken))
    return table


def _are_stacked(names: Sequence[str] | None) -> bool:
    return any("\n" in each for each in names or ())


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the widths of the columns of a table within ``width``; None if ids would have to be folded.

    Ids of key material, which are longer than others, are halved if they do not fit.
    """
    from rich.cells import cell_len  # noqa: PLC0415 - see above

    columns = list(zip(*rows, strict=True))
    room = width - 3 * len(columns) - 1
    widths = [max((cell_len(line) for cell in column for line in cell.split("\n")), default=0) for column in columns]
    for halved in (False, True):
        least = [max((_least(cell, halved=halved) for cell in column), default=0) for column in columns]
        if columns and sum(least) <= room:
            break
    else:
        return None
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda index: widths[index] - least[index])
        widths[widest] -= 1
    return [max(each, 1) for each in widths]


def _least(cell: str, *, halved: bool) -> int:
    """Return the width below which an id or the name of a command would be folded, or any other word too often."""
    pieces = [piece for word in cell.split() for piece in _pieces(word, halved=halved)]
    return max((len(each) if _is_name(each) else min(len(each), _WORD_WIDTH) for each in pieces), default=0)


def _is_name(word: str) -> bool:
    """Return True for what people copy or type in one piece: an id, a command, an option."""
    return bool(_id(word.rstrip(",")) or _command(word))


def _pieces(word: str, *, halved: bool = True) -> Sequence[str]:
    """Split a word where it may be broken: an ARN before the id, and the id of key material in the middle."""
    if arn := _arn(word):
        return arn.groups()
    return (word[:_HALF], word[_HALF:]) if halved and _long_id(word) else (word,)


def _broken(cell: str, width: int) -> str:
    """Break ARNs and ids that are wider than their column."""
    return re.sub(r"\S+", lambda word: word[0] if len(word[0]) <= width else "\n".join(_pieces(word[0])), cell)
