"""Durability of audit records before the response is sent, and the behaviour if the log cannot be written."""

from msgspec import Struct

from hsmkms.model.audit import Durability


class AuditPolicy(Struct, frozen=True, kw_only=True):
    """The operator's settings. ``refuse``: refuse requests if the log fails. ``seal_file``: holds the newest note."""

    durability: Durability = Durability.COMMIT
    interval_seconds: float = 0.2
    refuse: bool = True
    segment_bytes: int = 64 * 1024 * 1024
    seal_file: str | None = None
