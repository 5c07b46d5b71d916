"""The command usage, which shows how often keys were used: by day, and by key, user or operation."""

import csv
import sys
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from msgspec import Struct

from hsmkms.cli import completion
from hsmkms.cli.commands.audit import PANEL, ArchiveOption
from hsmkms.cli.commands.audit_filters import Filters, wanted_of
from hsmkms.cli.commands.usage_picture import draw
from hsmkms.cli.csv_cells import harmless
from hsmkms.cli.options import Common, named, note, with_common
from hsmkms.cli.output import OutputFormat, show
from hsmkms.errors import NotFoundException

if TYPE_CHECKING:
    from hsmkms.service.audit.uses import Count, Uses

MOST_DAYS: Final = 3660


class UsageFormat(StrEnum):
    """The value of ``--format``."""

    BARS = "bars"
    CSV = "csv"
    JSON = "json"


class By(StrEnum):
    """The value of ``--by``."""

    KEY = "key"
    PRINCIPAL = "principal"
    OPERATION = "operation"


class Period(Struct, frozen=True):
    """The days that are shown; ``log_begins``: since when the audit log has every record, None if it is empty."""

    days: list[str]
    log_begins: str | None

    def is_covered(self, day: str) -> bool:
        """Return True if the log has records of the whole day, or of its end."""
        return self.log_begins is not None and day >= self.log_begins[:10]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("usage", rich_help_panel=PANEL)(usage)


@with_common("config", "query")
def usage(
    common: Common,
    *,
    key_id: Annotated[
        str | None,
        typer.Option("--key-id", help="Only this key: id, ARN, or its alias.", autocompletion=completion.aliases),
    ] = None,
    by: Annotated[By | None, typer.Option("--by", help="Show also the figures of each.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=MOST_DAYS, help="Number of days until today, UTC.")] = 30,
    form: Annotated[
        UsageFormat | None, typer.Option("--format", help="Default: at a terminal bars, else json.")
    ] = None,
    archives: ArchiveOption = None,
) -> None:
    """Show how often keys were used, by day: cryptographic requests in the audit log, and those that failed.

    Below them stand the counters of the database: encryptions, which are counted in advance, and the last use. A day
    from before the audit log begins is shown as that; of more than 92 days each month has a bar. --archive reads
    archived files too. Needs neither PIN nor token.

    Example: hsmkms usage --key-id alias/photos --by principal --days 7
    """
    from hsmkms.service.audit import uses  # noqa: PLC0415 - help must not pay for it
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see above
    from hsmkms.wiring import usage_counters  # noqa: PLC0415 - see above

    settings = wiring.load_settings(common.config)
    today = datetime.now(UTC).date()
    first = today - timedelta(days=days - 1)
    wanted = wanted_of(Filters(start_time=str(first), end_time=str(today + timedelta(days=1)), key_id=key_id), settings)
    log = uses.lanes((wiring.audit_folder(settings), *(archives or ())))
    period = Period(_days(first, today), uses.covered_since(log))
    counted = uses.count(log, wanted, uses.Subject(by) if by is not None else None)
    known = usage_counters.read(settings, wanted.key)
    if not counted.days and not known.exists:
        raise NotFoundException(f"There is no key {key_id}, and the audit log has no use of one since {first}.")
    if not counted.days:
        note([f"none of the {counted.seen.records} records of the audit log is a use since {first}"])
    form = form or _usual_form(common)
    if form is UsageFormat.CSV:
        _write_csv(counted, period, by)
    elif form is UsageFormat.JSON:
        show(_answer(counted, period, by) | {"Counters": named(known.counters)}, OutputFormat.JSON, common.query)
    else:
        draw(counted, period.days, period.is_covered, known)


def _usual_form(common: Common) -> UsageFormat:
    return UsageFormat.BARS if common.format is OutputFormat.TABLE and common.query is None else UsageFormat.JSON


def _days(first: date, last: date) -> list[str]:
    return [str(first + timedelta(days=index)) for index in range((last - first).days + 1)]


def _answer(counted: "Uses", period: Period, by: By | None) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "LogBegins": period.log_begins,
        "Records": counted.seen.records,
        "Days": [
            {"Date": day, "InLog": period.is_covered(day), **_figures(counted.days.get(day))} for day in period.days
        ],
    }
    if by is None:
        return answer
    subjects: list[dict[str, Any]] = [
        {
            by.capitalize(): name,
            "Requests": sum(each.requests for each in days.values()),
            "Errors": sum(each.errors for each in days.values()),
            "Last": max(each.last for each in days.values()),
            "Days": [{"Date": day, **_figures(days[day])} for day in sorted(days)],
        }
        for name, days in counted.subjects.items()
    ]
    return answer | {"Subjects": sorted(subjects, key=lambda each: (-each["Requests"], each[by.capitalize()]))}


def _figures(count: "Count | None") -> dict[str, int]:
    return {"Requests": count.requests, "Errors": count.errors} if count is not None else {"Requests": 0, "Errors": 0}


def _write_csv(counted: "Uses", period: Period, by: By | None) -> None:
    """Write a line for each day that the log has, or for each day and subject that there is."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if by is None:
        writer.writerow(("Date", "Requests", "Errors"))
        for day in filter(period.is_covered, period.days):
            writer.writerow((day, *_figures(counted.days.get(day)).values()))
        return
    writer.writerow(("Date", by.capitalize(), "Requests", "Errors"))
    rows = [(day, name, count) for name, days in counted.subjects.items() for day, count in days.items()]
    for day, name, count in sorted(rows, key=lambda row: row[:2]):
        writer.writerow((day, harmless(name), *msgspec.structs.astuple(count)[:2]))
