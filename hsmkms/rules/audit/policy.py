"""How safe a record of the audit log must be before its request is answered, and what happens if it cannot be."""

from enum import StrEnum

from msgspec import Struct


class Durability(StrEnum):
    """When a record is on the disk."""

    COMMIT = "commit"
    """Before its request is answered; requests of one moment share one wait for the disk."""
    INTERVAL = "interval"
    """A short time later: a crash may lose that much."""
    OFF = "off"
    """Never: no audit log is written."""


class AuditPolicy(Struct, frozen=True, kw_only=True):
    """What the operator has set. ``refuse``: no log, no work. ``seal_file``: where the newest seal is kept as well."""

    durability: Durability = Durability.COMMIT
    interval_seconds: float = 0.2
    refuse: bool = True
    segment_bytes: int = 64 * 1024 * 1024
    seal_file: str | None = None
