"""The forms of a report: how each is written, and how its statement is read."""

import csv
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from hsmkms.cli.reports import csv_form, html_form
from hsmkms.cli.reports.document import FORMAT, Document, ReportFormat, Statement
from hsmkms.errors import StoreError


class _Form(Struct, frozen=True):
    render: Callable[[Document], bytes]
    statement: Callable[[bytes], dict[str, Any]]


_MALFORMED: Final = (ValueError, KeyError, TypeError, RecursionError, AssertionError, csv.Error)
"""What the parsers of the standard library raise for malformed files; html.parser fails by an assertion."""


def render(form: ReportFormat, content: Document) -> bytes:
    """Return a report in one of the forms."""
    return _FORMS[form].render(content)


def read_statement(data: bytes) -> Statement:
    """Return the statement of a report whose signature was verified. StoreError if it is no report."""
    first = data.lstrip()[:1]
    form = {b"<": ReportFormat.HTML, b"{": ReportFormat.JSON}.get(first, ReportFormat.CSV)
    try:
        found = msgspec.convert(_FORMS[form].statement(data), Statement)
    except (*_MALFORMED, msgspec.MsgspecError) as exc:
        raise StoreError("the file is proven to be unchanged, but it is no report of hsmkms") from exc
    if found.format != FORMAT:
        raise StoreError(f"the report has the format {found.format[:80]!r}, which this version does not know")
    return found


def _render_json(content: Document) -> bytes:
    # In ASCII: a description may have characters that a terminal or an editor shows as something else.
    return json.dumps(content, indent=2, ensure_ascii=True).encode() + b"\n"


def _statement_of_json(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)["Report"]
    return found


_FORMS: Final[Mapping[ReportFormat, _Form]] = {
    ReportFormat.HTML: _Form(html_form.render, html_form.statement),
    ReportFormat.CSV: _Form(csv_form.render, csv_form.statement),
    ReportFormat.JSON: _Form(_render_json, _statement_of_json),
}
