"""Print answers as json or yaml (the API's own members), text (tabs, as the aws CLI does) or table (for people)."""

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, Final

import typer

from hsmkms.cli import tables
from hsmkms.errors import ValidationException

Plain = None | bool | int | float | str | list[Any] | dict[str, Any]
"""The types of JSON, of which an answer consists."""


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
    """Print an answer, or the part of it that ``query`` (JMESPath) selects; in tables dates are dates."""
    if output is OutputFormat.TABLE:
        answer = tables.with_timestamps(answer)
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
        inner = f"{name}[].{query}" if tables.is_rows(value) else f"{name}.{query}"
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


_PRINTERS: Final = {
    OutputFormat.JSON: _print_json,
    OutputFormat.TEXT: _print_text,
    OutputFormat.YAML: _print_yaml,
    OutputFormat.TABLE: tables.print_table,
}
