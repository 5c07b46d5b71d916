"""The report as one CSV table, in which each row has one value."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from hsmkms.cli.csv_cells import harmless
from hsmkms.cli.reports.document import Document
from hsmkms.cli.tables import printable

COLUMNS: Final = ("Section", "Region", "Item", "Name", "Value")
"""``Item``: the id of the key, user and so on that the row is about."""

_HEAD_ROWS: Final = 32
"""Rows among which the whole statement is: it is the first section."""

_ID_OF: Final = {
    "Tokens": "Serial",
    "Keys": "KeyId",
    "Users": "UserName",
    "Groups": "GroupName",
    "RootAccessKeys": "AccessKeyId",
}


def render(content: Document) -> bytes:
    """Return the file; every cell is quoted, and none is run as a formula."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for section, value in content.items():
        for row in _rows(section, value):
            writer.writerow([harmless(printable(cell)) for cell in row])
    return text.getvalue().encode()


def statement(data: bytes) -> dict[str, Any]:
    """Return the members of the statement in a file, as texts."""
    head, *rows = islice(csv.reader(io.StringIO(data.decode(), newline="")), _HEAD_ROWS)
    if tuple(head) != COLUMNS:
        raise ValueError(head)
    found: dict[str, Any] = {row[3]: row[4] for row in rows if len(row) == len(COLUMNS) and row[0] == "Report"}
    return found | {"KeyVersion": int(found.get("KeyVersion", "0"))}


def _rows(section: str, value: Any) -> Iterator[tuple[str, ...]]:  # noqa: ANN401 - JSON
    if not isinstance(value, list):
        for name, text in _pairs("", value):
            yield section, "", "", name or section, text
        return
    for number, each in enumerate(value, start=1):
        item = str(each.get(_ID_OF.get(section, ""), number))
        for name, text in _pairs("", each):
            yield section, str(each.get("Region", "")), item, name, text


def _pairs(prefix: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Yield the scalars of a value, each with its path; a list of scalars is one value."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _pairs(f"{prefix}.{name}" if prefix else name, each)
    elif isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        for number, each in enumerate(value, start=1):
            yield from _pairs(f"{prefix}.{number}", each)
    else:
        yield prefix, _text(value)


def _text(value: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return " ".join(map(_text, value))
    if value is None or isinstance(value, bool | int | float):
        return "" if value is None else json.dumps(value)
    return str(value)
