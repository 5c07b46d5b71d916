"""Parse points in time of the past, as people write them: dates, times, and how long ago."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from hsmkms.errors import ValidationException

FORMS: Final = "2026-01-02, 2026-01-02T03:04:05Z, 2026-01, today, yesterday, or 7d, 12h or 30m ago"

_ago: Final = re.compile(r"([0-9]{1,6})(m|h|d|w)(?: ago)?").fullmatch
_year_or_month: Final = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?").fullmatch
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
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
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if part := _year_or_month(text):
            return datetime(int(part[1]), int(part[2] or 1), 1, tzinfo=UTC)
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValidationException(f"{option}: {value!r} is no date or time: write {FORMS} (all in UTC).") from exc
