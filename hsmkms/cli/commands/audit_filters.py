"""Turn the filter options of audit commands into a filter of records; what cannot match anything is refused."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec import Struct

from hsmkms.cli import completion
from hsmkms.cli.api.values import alias_name
from hsmkms.cli.moments import moment
from hsmkms.cli.options import note
from hsmkms.errors import ApiError, ValidationException
from hsmkms.model.enums import Operation
from hsmkms.model.ids import RefKind, is_key_id, key_arn, parse_key_ref

if TYPE_CHECKING:
    from hsmkms.config.settings import Settings
    from hsmkms.service.audit.filters import Seen, Wanted

_SECOND: Final = timedelta(seconds=1)

_OPTIONS: Final = {
    "start_time": ("--start-time", "Only records since then: 2026-01-02, 7d, yesterday. UTC.", None),
    "end_time": ("--end-time", "Only records before this time.", None),
    "event_name": ("--event-name", "Only this operation, e.g. Decrypt.", completion.words(Operation)),
    "key_id": ("--key-id", "Only records about this key: id, ARN, or its alias.", completion.aliases),
    "principal": ("--principal", "Only requests of this user (name or ARN), or of root.", completion.users),
    "outcome": ("--outcome", "Only success, only error, or only this error code.", None),
}
"""The option of each filter, its help, and how its values are completed in the shell."""


class Filters(Struct, frozen=True, kw_only=True):
    """The filter options as given."""

    start_time: str | None = None
    end_time: str | None = None
    event_name: str | None = None
    key_id: str | None = None
    principal: str | None = None
    outcome: str | None = None

    @property
    def given(self) -> bool:
        """Whether there is any filter."""
        return self != Filters()


def with_filters(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of all filters to a command, and pass it their values as ``filters``."""

    @wraps(function)
    def command(*args: Any, **given: Any) -> None:  # noqa: ANN401 - typer reads the signature below
        filters = Filters(**{name: given.pop(name) for name in _OPTIONS})
        function(*args, filters=filters, **given)

    own = list(inspect.signature(function).parameters.values())
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                str | None, typer.Option(option, help=text, show_default=False, autocompletion=complete)
            ],
            default=None,
        )
        for name, (option, text, complete) in _OPTIONS.items()
    ]
    parameters = [each for each in own if each.name != "filters"]
    ahead = [each for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    behind = [each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    command.__signature__ = inspect.Signature([*ahead, *options, *behind])  # type: ignore[attr-defined]
    return command


def wanted_of(filters: Filters, settings: "Settings") -> "Wanted":
    """Return the filter. Raises ValidationException for an invalid time, NotFoundException for an unknown alias."""
    from hsmkms.service.audit.filters import Wanted  # noqa: PLC0415 - help must not pay for it

    now = datetime.now(UTC)
    start = None if filters.start_time is None else moment("--start-time", filters.start_time, now)
    end = None if filters.end_time is None else moment("--end-time", filters.end_time, now)
    if start is not None and end is not None and start >= end:
        raise ValidationException(f"--start-time ({start:%FT%TZ}) is not before --end-time ({end:%FT%TZ}).")
    if start is not None and start > now:
        raise ValidationException(f"--start-time ({start:%FT%TZ}) is in the future.")
    return Wanted(
        start_time=None if start is None else f"{start:%FT%TZ}",
        # Records have whole seconds: one of the same second as a fraction is before it.
        end_time=None if end is None else f"{end + (_SECOND if end.microsecond else timedelta()):%FT%TZ}",
        event_name=filters.event_name,
        key=None if filters.key_id is None else _key(filters.key_id, settings),
        principal=filters.principal,
        outcome=filters.outcome,
    )


def _key(key_id: str, settings: "Settings") -> str:
    """Return the key that an option names, as an ARN or its last part; an alias stands for its key, and a note says so.

    Raises NotFoundException for an alias that there is not, InvalidArnException.
    """
    from hsmkms.wiring import core as wiring  # noqa: PLC0415 - see above

    if is_key_id(key_id):
        return f"key/{key_id}"
    region = settings.default_region
    name = key_id if key_id.startswith("arn:") else alias_name(key_id)
    if name.startswith("arn:"):
        region = name.split(":")[3] if name.count(":") > 3 else region  # noqa: PLR2004 - arn:aws:kms:REGION:...
    ref = parse_key_ref(name, account=settings.account_id, region=region, aliases=True)
    if ref.kind is RefKind.KEY:
        return key_arn(settings.account_id, ref.region, ref.name)
    target = wiring.target_of_alias(settings, ref)
    note([f"{ref.name} is the key {target} now: these are the records about that key"])
    return key_arn(settings.account_id, ref.region, target)


def check_names(filters: Filters, seen: "Seen") -> None:
    """Raise ValidationException for an event or an error code that hsmkms does not know and the log does not have."""
    if filters.event_name is not None:
        known = {*map(str, Operation), *seen.events}
        _check("--event-name", filters.event_name, known, "operation of the API, and no event in this log")
    if filters.outcome is not None:
        known = {"success", "error", *_error_codes(ApiError), *seen.errors}
        _check("--outcome", filters.outcome, known, "outcome: write success, error, or an error code")


def _check(option: str, value: str, known: Iterable[str], kind: str) -> None:
    names = {each.casefold(): each for each in known}
    if names.get(value.casefold()) == value:
        return
    close = difflib.get_close_matches(value.casefold(), names, n=1)
    advice = f" Did you mean {names[close[0]]}?" if close else ""
    raise ValidationException(f"{option}: {value!r} is no {kind}.{advice}")


def _error_codes(kind: type[ApiError]) -> set[str]:
    below = kind.__subclasses__()
    return {kind.__name__}.union(*map(_error_codes, below)) if below else {kind.__name__}


def note_emptiness(filters: Filters, seen: "Seen") -> None:
    """Say on standard error that no record matches, and among how many."""
    sentence = f"none of the {seen.records} records of the audit log matches"
    if filters.principal is not None and filters.principal not in seen.principals and seen.principals:
        sentence += f" (their principals: {', '.join(sorted(seen.principals))})"
    note([sentence])
