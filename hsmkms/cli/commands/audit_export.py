"""Write records of the audit log, or a summary of them, as JSON lines, CSV or a table."""

import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from hsmkms.cli.csv_cells import harmless
from hsmkms.cli.output import OutputFormat, pick, show

if TYPE_CHECKING:
    from hsmkms.service.audit.filters import Fields
    from hsmkms.service.audit.reading import Export

Row = dict[str, Any]


class ExportFormat(StrEnum):
    """The value of ``--format``."""

    JSONL = "jsonl"
    CSV = "csv"
    TABLE = "table"


class Summary(StrEnum):
    """The value of ``--summary``: what records are counted by."""

    KEY = "key"
    PRINCIPAL = "principal"
    OPERATION = "operation"


class _Count(Struct):
    records: int = 0
    errors: int = 0
    last: str = ""


def write(export: "Export", form: ExportFormat, query: str | None) -> int:
    """Write the matching records, or what ``query`` (JMESPath) picks of each; return how many there were."""
    if form is ExportFormat.JSONL and query is None:
        count = 0
        for record in export:
            sys.stdout.buffer.write(record + b"\n")
            count += 1
        return count
    counted = _Counted(export.found)
    if query is None:
        _WRITERS[form](map(_short_columns if form is ExportFormat.TABLE else _columns, counted))
    else:
        picked = (pick(msgspec.json.decode(record), query) for _, record in counted)
        _WRITERS[form](each for each in picked if each is not None)
    return counted.count


def write_summary(export: "Export", by: Summary, form: ExportFormat, query: str | None) -> int:
    """Write how many records there are by key, principal or operation, the most first; return how many there were."""
    counts: dict[str, _Count] = {}
    total = 0
    for fields, _ in export.found:
        total += 1
        for name in _subjects(fields, by):
            count = counts.setdefault(name, _Count())
            count.records += 1
            count.errors += bool(fields.error_code)
            count.last = fields.event_time
    rows = [
        {by.value.capitalize(): name, "Records": each.records, "Errors": each.errors, "Last": each.last}
        for name, each in sorted(counts.items(), key=lambda both: (-both[1].records, both[0]))
    ]
    _WRITERS[form](rows if query is None else [picked for each in rows if (picked := pick(each, query)) is not None])
    return total


class _Counted:
    """Iterates over records, and counts them."""

    def __init__(self, found: "Iterator[tuple[Fields, bytes]]") -> None:
        self._found = found
        self.count = 0

    def __iter__(self) -> "Iterator[tuple[Fields, bytes]]":
        for each in self._found:
            self.count += 1
            yield each


def _subjects(fields: "Fields", by: Summary) -> list[str]:
    if by is Summary.KEY:
        return [arn for arn in dict.fromkeys(fields.keys) if ":key/" in arn] or ["(none)"]
    return [fields.principal if by is Summary.PRINCIPAL else fields.event_name]


def _short_columns(found: "tuple[Fields, bytes]") -> Row:
    """Return the members of a record that fit the width of a terminal."""
    fields, _ = found
    members = (fields.event_time, fields.event_name, fields.principal, fields.error_code)
    return dict(zip(("eventTime", "eventName", "principal", "errorCode"), members, strict=True))


def _columns(found: "tuple[Fields, bytes]") -> Row:
    """Return the members of a record that a table of all events can have."""
    fields, record = found
    more = msgspec.json.decode(record)
    return {
        "eventTime": fields.event_time,
        "eventName": fields.event_name,
        "principal": fields.principal,
        "errorCode": fields.error_code,
        "resources": " ".join(fields.keys),
        "awsRegion": more.get("awsRegion", ""),
        "sourceIPAddress": more.get("sourceIPAddress", ""),
        "requestID": fields.request_id,
        "eventID": fields.event_id,
    }


# -- forms ------------------------------------------------------------------------------------------------------------


def _write_jsonl(rows: Iterable[Any]) -> None:
    for each in rows:
        sys.stdout.buffer.write(msgspec.json.encode(each) + b"\n")


def _write_csv(rows: Iterable[Any]) -> None:
    """Write rows as CSV, with a line of names if they are objects."""
    remaining = iter(rows)
    first = next(remaining, None)
    if first is None:
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if isinstance(first, dict):
        writer.writerow(first)
    for each in chain([first], remaining):
        values = list(each.values()) if isinstance(each, dict) else each if isinstance(each, list) else [each]
        writer.writerow([_harmless(value) for value in values])


def _harmless(value: Any) -> Any:  # noqa: ANN401 - any member of a record
    """Return a value for CSV, in which no client's text is a formula."""
    if isinstance(value, list | dict):
        value = msgspec.json.encode(value).decode()
    return harmless(value) if isinstance(value, str) else value


def _write_table(rows: Iterable[Any]) -> None:
    show({"Records": list(rows)}, OutputFormat.TABLE)


_WRITERS: Final[dict[ExportFormat, Callable[[Iterable[Any]], None]]] = {
    ExportFormat.JSONL: _write_jsonl,
    ExportFormat.CSV: _write_csv,
    ExportFormat.TABLE: _write_table,
}
