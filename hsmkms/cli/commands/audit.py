"""Commands about the audit log: audit tail, show, export, verify, archive."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hsmkms.cli.commands import audit_export, audit_follow
from hsmkms.cli.commands.audit_export import ExportFormat, Summary
from hsmkms.cli.commands.audit_filters import (
    Filters,
    check_names,
    note_emptiness,
    wanted_of,
    with_filters,
)
from hsmkms.cli.commands.audit_lines import print_lines
from hsmkms.cli.moments import moment
from hsmkms.cli.options import Common, StatusError, named, note, with_common
from hsmkms.cli.output import OutputFormat
from hsmkms.errors import (
    ModuleError,
    NotFoundException,
    PinError,
    TokenError,
    TokenNotFoundError,
    ValidationException,
)

if TYPE_CHECKING:
    from hsmkms.service.audit.gathering import Gathering
    from hsmkms.service.audit.verification import Verdict

PANEL: Final = "Audit log"
NOT_PROVEN_STATUS: Final = 3
"""Status of `audit verify` if no fault was detected, but the token is away or could not prove each seal."""
_MOST_LINES: Final = 100_000
"""Records that `audit tail` shows at most, since it holds them in memory."""
_BAR_STEP_BYTES: Final = 1 << 20
"""The progress bar moves after so many bytes, and at the end."""

audit = typer.Typer(
    name="audit",
    help="Read, verify and archive the audit log.\n\nExample: hsmkms audit verify",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

ArchiveOption = Annotated[
    list[Path] | None, typer.Option("--archive", metavar="DIR", help="Folder with archived files of the log.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (tail, show, export, verify, archive):
        audit.command(command.__name__)(command)
    app.add_typer(audit, rich_help_panel=PANEL)


@with_common("config", "output", "query")
@with_filters
def tail(
    common: Common,
    *,
    filters: Filters,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=_MOST_LINES, help="Number of records.")] = 10,
) -> None:
    """Show the newest records, or the newest that match; needs neither PIN nor token.

    At a terminal a record is a line: time, operation, user, outcome and keys. --output json has all of it.

    Example: hsmkms audit tail -n 3 --query 'Records[].[eventTime, eventName, errorCode]'
    """
    from hsmkms.service.audit import reading as audit_reading  # noqa: PLC0415 - help must not pay for it
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see above

    settings = wiring.load_settings(common.config)
    newest = audit_reading.tail(wiring.audit_folder(settings), lines, wanted_of(filters, settings))
    check_names(filters, newest.seen)
    if not newest.seen.records and not filters.given:
        note(["the audit log has no records"])
    elif not newest.found:
        note_emptiness(filters, newest.seen)
    if common.format is OutputFormat.TABLE and common.query is None:
        print_lines([fields for fields, _ in newest.found])
    else:
        common.show({"Records": newest.records})


@with_common("config", "output", "query")
@with_filters
def show(
    common: Common,
    event_id: Annotated[str, typer.Argument(metavar="ID", help="An eventID, or a client's requestID.")],
    *,
    filters: Filters,
) -> None:
    """Show the records of an event or of a request, as far as they match.

    Example: hsmkms audit show 4b6c4a0e-0f9c-4d0e-9a6e-0d0f4c7b8a11
    """
    from hsmkms.service.audit import reading as audit_reading  # noqa: PLC0415 - see tail
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see tail

    settings = wiring.load_settings(common.config)
    shown = audit_reading.show(wiring.audit_folder(settings), event_id, wanted_of(filters, settings))
    check_names(filters, shown.seen)
    if not shown.found and not filters.given:
        records = f"{shown.seen.records} records were looked at"
        raise NotFoundException(f"The audit log has no record with the id {event_id} ({records}).")
    if not shown.found:
        note_emptiness(filters, shown.seen)
    common.show({"Records": shown.records})


@with_common("config", "query")
@with_filters
def export(
    common: Common,
    *,
    filters: Filters,
    summary: Annotated[
        Summary | None, typer.Option("--summary", help="Count the records by this instead of printing them.")
    ] = None,
    form: Annotated[
        ExportFormat | None, typer.Option("--format", help="Default: jsonl; of a summary at a terminal: table.")
    ] = None,
    follows: Annotated[bool, typer.Option("--follow", help="Go on with records as they are written.")] = False,
    cursor: Annotated[
        Path | None, typer.Option("--cursor", metavar="FILE", help="Begin where this ended; kept up to date.")
    ] = None,
    archives: ArchiveOption = None,
) -> None:
    """Print records as JSON lines ordered by time, in CloudTrail's format.

    --query is applied to each record. An answer without records says how many were looked at. --follow goes on until
    SIGTERM or SIGINT; with --cursor the next run begins behind the last record that was printed, with or without it.
    These print records as they come, ordered only among those that are there at once.

    Example: hsmkms audit export --start-time 7d --event-name Decrypt --summary principal
    """
    from hsmkms.service.audit import reading as audit_reading  # noqa: PLC0415 - see tail
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see tail

    settings = wiring.load_settings(common.config)
    folders, wanted = (wiring.audit_folder(settings), *(archives or ())), wanted_of(filters, settings)
    if follows or cursor is not None:
        if summary is not None or form not in (None, ExportFormat.JSONL):
            raise ValidationException("--follow and --cursor print JSON lines: leave --summary and --format out.")
        if filters.event_name is not None or filters.outcome is not None:
            check_names(filters, audit_reading.export(folders, wanted).seen)
        audit_follow.follow(folders, wanted, common.query, cursor, ends=not follows)
        return
    records = audit_reading.export(folders, wanted)
    check_names(filters, records.seen)
    if summary is None:
        count = audit_export.write(records, form or ExportFormat.JSONL, common.query)
    else:
        usual = ExportFormat.TABLE if sys.stdout.isatty() and common.query is None else ExportFormat.JSONL
        count = audit_export.write_summary(records, summary, form or usual, common.query)
    if not count:
        note_emptiness(filters, records.seen)


@with_common("config", "output", "query")
def verify(
    common: Common,
    *,
    archives: ArchiveOption = None,
    gather: Annotated[
        list[Path] | None,
        typer.Option("--gather", metavar="DIR", help="Also the log of another node: its data folder, or a copy."),
    ] = None,
    copied_at: Annotated[
        str | None, typer.Option("--copied-at", metavar="TIME", help="When copying those logs began; UTC.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="NODE-ID", help="A node whose log is lost.")
    ] = None,
) -> None:
    """Check every record against its chain, the chains against the seals, and the seals against the token.

    Status 1 if something was changed, removed, inserted, moved or rolled back (Faults names the first place), or for
    any other error, which has no answer. Status 3 if no such change was detected, but the token could not prove each
    seal that the rest depends on (Unproven), or was not reachable at all (it is away, or its PIN or module is missing):
    that is not a success.

    Of several nodes each command verifies the log of its own. With --gather it verifies those of others, too, and
    against one another: each must have what its node has published by now, or had by --copied-at.

    Example: hsmkms audit verify --archive /mnt/archive
    """
    gathering = _gathering(gather, copied_at, without)
    try:
        with common.open() as kms, progress() as advance:
            if gathering is None:
                verdict = kms.operator.audit.verify(archives or (), advance)
            else:
                verdict = kms.operator.audit.verify_together(gathering, archives or (), advance)
    except (TokenError, TokenNotFoundError, PinError, ModuleError) as exc:
        raise StatusError(exc, NOT_PROVEN_STATUS) from exc
    common.show(_shown(verdict))
    if verdict.faults:
        sys.exit(1)
    if verdict.unproven:
        sys.exit(NOT_PROVEN_STATUS)


@with_common("config", "output", "query")
def archive(
    common: Common,
    *,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to move the files to.")],
) -> None:
    """Move completed files of the log to a folder, after verifying it; the newest of each lane stays.

    Example: hsmkms audit archive --to /mnt/archive
    """
    with common.open() as kms:
        moved = kms.operator.audit.archive(to)
    common.show({"Moved": moved})


def _gathering(folders: list[Path] | None, copied_at: str | None, without: list[str] | None) -> "Gathering | None":
    from hsmkms.service.audit.gathering import Gathering  # noqa: PLC0415 - see tail

    if folders is None:
        if copied_at is not None or without is not None:
            raise ValidationException(
                "--copied-at and --without are for the logs of other nodes: name them by --gather."
            )
        return None
    time = None if copied_at is None else moment("--copied-at", copied_at, datetime.now(UTC))
    return Gathering(folders=folders, copied_at=time, without=without or ())


def _shown(verdict: "Verdict") -> dict[str, object]:
    answer: dict[str, object] = named(verdict)
    # named() renames only the outer members.
    lists = {"Faults": verdict.faults, "Unproven": verdict.unproven, "Accepted": verdict.accepted}
    if isinstance(nodes := getattr(verdict, "nodes", None), list):
        answer["Nodes"] = [named(each) for each in nodes]
    return answer | {name: [named(fault) for fault in faults] for name, faults in lists.items()}


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar at a terminal; yields a function to call after each record, with its bytes and the total."""
    if not sys.stderr.isatty():
        yield lambda _more, _total: None
        return
    from rich.console import Console  # noqa: PLC0415 - only the bar needs it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        done = shown = 0

        def advance(more: int, total: int) -> None:
            nonlocal done, shown
            done += more
            if done - shown >= _BAR_STEP_BYTES or done >= total:
                bar.update(task, total=total, completed=done)
                shown = done

        yield advance
