"""Print answers as json or yaml (the API's own members), text (tabs, as the aws CLI does) or table (for people)."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, Final

import typer

from hsmkms.errors import ValidationException

Plain = None | bool | int | float | str | list[Any] | dict[str, Any]
"""The types of JSON, of which an answer consists."""

MOST_COLUMNS: Final = 4
"""A row with more members than these, or with nested ones, is shown as a table of its own."""

_DATE_SUFFIXES: Final = ("Date", "ValidTo")


class OutputFormat(StrEnum):
    """The value of ``--output``."""

    JSON = "json"
    TABLE = "table"
    TEXT = "text"
    YAML = "yaml"


def default_format() -> OutputFormat:
    """Return table at a terminal, else json."""
    return OutputFormat.TABLE if sys.stdout.isatty() else OutputFormat.JSON


def show(answer: Plain, output: OutputFormat, query: str | None = None) -> None:
    """Print an answer, or the part of it that ``query`` (JMESPath) selects."""
    if query is not None:
        whole, answer = answer, pick(answer, query)
        if answer is None and sys.stderr.isatty():
            print(f"hsmkms: note: {_nothing_selected(whole, query)}", file=sys.stderr)
    _PRINTERS[output](answer)


def _nothing_selected(answer: Plain, query: str) -> str:
    """Say that a query selects nothing, of what, and what was meant if it leaves out the name of a structure."""
    sentence = f"--query {query!r} selects nothing in this answer"
    if not isinstance(answer, dict):
        return sentence
    for name, value in answer.items():
        inner = f"{name}[].{query}" if _is_rows(value) else f"{name}.{query}"
        if _selects(answer, inner):
            return f"{sentence}: did you mean {inner!r}?"
    return f"{sentence}, whose members are {', '.join(answer)}"


def _selects(answer: Plain, query: str) -> bool:
    """Return True if a query is valid and selects something."""
    try:
        return pick(answer, query) not in (None, [])
    except ValidationException:
        return False


def check_query(query: str) -> None:
    """Raise a usage error for an invalid JMESPath expression."""
    import jmespath  # noqa: PLC0415 - only --query needs it

    try:
        jmespath.compile(query)
    except jmespath.exceptions.JMESPathError as exc:
        raise typer.BadParameter(f"--query is not JMESPath: {str(exc).splitlines()[0]}") from exc


def check_format(output: OutputFormat | None) -> None:
    """Raise a usage error for a format whose library is not installed."""
    if output is OutputFormat.YAML and find_spec("yaml") is None:
        raise typer.BadParameter("--output yaml needs PyYAML: `pip install hsmkms[yaml]`, or use --output json")


def pick(answer: Plain, query: str) -> Plain:
    """Return the part of an answer that a query (JMESPath) selects. ValidationException if it does not fit."""
    import jmespath  # noqa: PLC0415 - see check_query

    try:
        picked: Plain = jmespath.search(query, answer)
    except jmespath.exceptions.JMESPathError as exc:
        raise ValidationException(f"--query does not fit the answer: {str(exc).splitlines()[0]}") from exc
    return picked


def _print_json(answer: Plain) -> None:
    print(json.dumps(answer, indent=4, ensure_ascii=False))


def _print_yaml(answer: Plain) -> None:
    import yaml  # noqa: PLC0415 - an extra

    yaml.safe_dump(answer, sys.stdout, allow_unicode=True, sort_keys=False)


def _print_text(answer: Plain) -> None:
    for line in _text_lines(answer, None):
        print(line)


def _text_lines(value: Plain, label: str | None) -> list[str]:
    """Format an object's scalars on one line, sorted by name, and below them its nested values with their names."""
    if isinstance(value, Mapping):
        scalars = [_word(each) for _, each in sorted(value.items()) if not isinstance(each, dict | list)]
        nested = [(name, each) for name, each in sorted(value.items()) if isinstance(each, dict | list)]
        head = ["\t".join(([label] if label else []) + scalars)] if scalars else []
        return head + [line for name, each in nested for line in _text_lines(each, name.upper())]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(not isinstance(each, dict | list) for each in value):
            if label is None:
                return ["\t".join(map(_word, value))] if value else []
            return [f"{label}\t{_word(each)}" for each in value]
        return [line for each in value for line in _text_lines(each, label)]
    return [_word(value)]


def _word(value: Plain) -> str:
    return "None" if value is None else str(value)


def _print_table(answer: Plain) -> None:
    from rich.console import Console  # noqa: PLC0415 - only tables need it

    console = Console(highlight=False)
    if isinstance(answer, dict):
        for name, value in _members(answer).items():
            console.print(_section(name, value))
    elif answer is not None:
        console.print(_section(None, answer))


def _members(answer: dict[str, Any]) -> dict[str | None, Any]:
    """Split an answer into the sections of its table: first all its scalars together, then each structure by name.

    An answer that is one structure has that one's name as its title, which a query must begin with.
    """
    wrapper = None
    if len(answer) == 1 and isinstance(next(iter(answer.values())), dict):
        wrapper, answer = next(iter(answer.items()))
    sections = {name: value for name, value in answer.items() if _is_rows(value) or isinstance(value, dict)}
    scalars = {name: value for name, value in answer.items() if name not in sections and value is not False}
    return ({wrapper: scalars} if scalars else {}) | sections


def _section(name: str | None, value: Plain) -> Any:  # noqa: ANN401 - rich is lazy
    from rich.console import Group  # noqa: PLC0415 - see above

    if isinstance(value, dict):
        return _pairs_table(value, name)
    if not _is_rows(value):
        return _cell("", value)
    rows: list[dict[str, Any]] = value  # type: ignore[assignment]  # _is_rows says so
    names = list(dict.fromkeys(member for row in rows for member in row))
    if len(names) > MOST_COLUMNS or any(isinstance(each, dict) for row in rows for each in row.values()):
        return Group(*(_pairs_table(row, name) for row in rows))
    return _rows_table(rows, names, name)


def _is_rows(value: Plain) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _rows_table(rows: Sequence[Mapping[str, Plain]], names: list[str], title: str | None) -> Any:  # noqa: ANN401
    """Make a table with a line for each row; long values are folded, never cut, since ids must be complete."""
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name, "")) for name in names))
    return table


def _pairs_table(pairs: Mapping[str, Plain], title: str | None) -> Any:  # noqa: ANN401 - rich is lazy
    """Make a table with a line for each member."""
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, _cell(name, value))
    return table


def _cell(name: str, value: Plain) -> str:
    """Format a value for people: timestamps as dates, maps on lines; square brackets are escaped."""
    from rich.markup import escape  # noqa: PLC0415 - see above

    if isinstance(value, int | float) and not isinstance(value, bool) and name.endswith(_DATE_SUFFIXES):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, list):
        return ", ".join(_cell("", each) for each in value) or "-"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_cell(key, each)}" for key, each in value.items())
    return escape("-" if value is None else str(value))


_PRINTERS: Final = {
    OutputFormat.JSON: _print_json,
    OutputFormat.TEXT: _print_text,
    OutputFormat.YAML: _print_yaml,
    OutputFormat.TABLE: _print_table,
}
