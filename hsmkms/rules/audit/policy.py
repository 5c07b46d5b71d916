"""Durability of audit records before the response is sent, and the behaviour if the log cannot be written."""

from enum import StrEnum

from msgspec import Struct


class Durability(StrEnum):
    """When a record is fsynced."""

    COMMIT = "commit"
    """Before the response is sent; concurrent requests share one fsync."""
    INTERVAL = "interval"
    """A short time later: a crash may lose that much."""
    OFF = "off"
    """Never: no audit log is written."""


class AuditPolicy(Struct, frozen=True, kw_only=True):
    """The operator's settings. ``refuse``: refuse requests if the log fails. ``seal_file``: holds the newest note."""

    durability: Durability = Durability.COMMIT
    interval_seconds: float = 0.2
    refuse: bool = True
    segment_bytes: int = 64 * 1024 * 1024
    seal_file: str | None = None
