"""The words of columns that only the store has: life cycles, statuses, purposes."""

from enum import StrEnum


class Lifecycle(StrEnum):
    """Life cycle of a key in a region. Only LIVE keys are visible to users."""

    INTENDED = "INTENDED"
    LIVE = "LIVE"
    DELETED = "DELETED"


class ObjectStatus(StrEnum):
    """Last recorded status of a token object: intent, then result."""

    INTENDED = "INTENDED"
    PRESENT = "PRESENT"
    DESTROYING = "DESTROYING"
    DESTROYED = "DESTROYED"


class AccessKeyStatus(StrEnum):
    """Whether an access key is accepted; the values are those of AWS IAM."""

    ACTIVE = "Active"
    INACTIVE = "Inactive"


class ObjectPurpose(StrEnum):
    """Purpose of a token object."""

    BACKING_KEY = "BACKING_KEY"
    WRAPPING_KEY = "WRAPPING_KEY"
