"""Parse points in time as people write them: dates, times, how long ago, and how long from now."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from hsmkms.errors import ValidationException

FORMS: Final = "2026-01-02, 2026-01-02T03:04:05Z, 2026-01, today, yesterday, or 1y, 7d, 12h or 30m ago"
LATER_FORMS: Final = "2027-01-31, 2027-01-31T12:00:00Z, 180d from now, or seconds since 1970"

_ago: Final = re.compile(r"([0-9]{1,6})(m|h|d|w|y)(?: ago)?").fullmatch
_from_now: Final = re.compile(r"([0-9]{1,6})(m|h|d|w|y)(?: from now)?").fullmatch
_year_or_month: Final = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?").fullmatch
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}
_WORDS: Final = {"today": 0, "yesterday": 1}


def moment(option: str, value: str, now: datetime) -> datetime:
    """Return the instant that an option names, in UTC. Raises ValidationException."""
    text = value.strip()
    try:
        if text in _WORDS:
            return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=_WORDS[text])
        if text == "now":
            return now
        if ago := _ago(text):
            return now - int(ago[1]) * _UNITS[ago[2]]
        if part := _year_or_month(text):
            return datetime(int(part[1]), int(part[2] or 1), 1, tzinfo=UTC)
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValidationException(f"{option}: {value!r} is no date or time: write {FORMS} (all in UTC).") from exc


def instant(option: str, value: str) -> datetime:
    """Parse an instant: seconds since 1970, or ISO 8601, in UTC if it names no zone."""
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            return datetime.fromtimestamp(float(value), UTC)
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ValidationException(
            f"{option}: {value!r} is no date or time: write 2027-01-31, 2027-01-31T12:00:00Z (in UTC), "
            "or seconds since 1970."
        ) from exc


def expiry(option: str, value: str, now: datetime) -> datetime:
    """Return the instant of the future that an option names, in UTC. Raises ValidationException."""
    try:
        if span := _from_now(value.strip()):
            return now.replace(microsecond=0) + int(span[1]) * _UNITS[span[2]]
        return instant(option, value)
    except (ValidationException, OverflowError) as exc:
        raise ValidationException(f"{option}: {value!r} is no date or time: write {LATER_FORMS} (in UTC).") from exc
