"""Compute the waiting period before a key is deleted. Source: AWS KMS API Reference, ScheduleKeyDeletion."""

from datetime import datetime, timedelta
from typing import Final

from hsmkms.model.enums import KeyState
from hsmkms.model.records import KeyRecord
from hsmkms.rules.constraints import check_range

SHORTEST_WINDOW_DAYS: Final = 7
LONGEST_WINDOW_DAYS: Final = 30


def window_days(requested: int | None) -> int:
    """Return the waiting period in days; default 30. ValidationException outside 7 to 30."""
    if requested is None:
        return LONGEST_WINDOW_DAYS
    check_range(requested, "pendingWindowInDays", SHORTEST_WINDOW_DAYS, LONGEST_WINDOW_DAYS)
    return requested


def deletion_date(now: datetime, days: int) -> datetime:
    """Return the end of a waiting period that begins now."""
    return now + timedelta(days=days)


def is_due(key: KeyRecord, now: datetime) -> bool:
    """Return True if the key's waiting period is over."""
    return key.state is KeyState.PENDING_DELETION and key.deletion_date is not None and key.deletion_date <= now
