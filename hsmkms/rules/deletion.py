"""The waiting period before a key is destroyed. Source: AWS KMS API Reference, ScheduleKeyDeletion."""

from datetime import datetime, timedelta
from typing import Final

from hsmkms.model.enums import KeyState
from hsmkms.model.records import KeyRecord
from hsmkms.rules.constraints import check_range

SHORTEST_WINDOW_DAYS: Final = 7
LONGEST_WINDOW_DAYS: Final = 30


def window_days(requested: int | None) -> int:
    """The waiting period in days, 30 unless the caller says otherwise. ValidationException outside 7 to 30."""
    if requested is None:
        return LONGEST_WINDOW_DAYS
    check_range(requested, "pendingWindowInDays", SHORTEST_WINDOW_DAYS, LONGEST_WINDOW_DAYS)
    return requested


def deletion_date(now: datetime, days: int) -> datetime:
    """When the waiting period that begins now is over."""
    return now + timedelta(days=days)


def is_due(key: KeyRecord, now: datetime) -> bool:
    """True if the key's waiting period is over."""
    return key.state is KeyState.PENDING_DELETION and key.deletion_date is not None and key.deletion_date <= now
