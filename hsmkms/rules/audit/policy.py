"""How safe a record of the audit log must be before its request is answered, and what happens if it cannot be."""

from msgspec import Struct

from hsmkms.model.audit import Durability


class AuditPolicy(Struct, frozen=True, kw_only=True):
    """What the operator has set. ``refuse``: no log, no work. ``seal_file``: where the newest seal is kept as well."""

    durability: Durability = Durability.COMMIT
    interval_seconds: float = 0.2
    refuse: bool = True
    segment_bytes: int = 64 * 1024 * 1024
    seal_file: str | None = None
