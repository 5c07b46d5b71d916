"""The parts of an open installation, which every procedure of the service gets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct, field
from msgspec.structs import replace

from hsmkms.hsm.ports import Device
from hsmkms.rules.iam.grant_token import Claims
from hsmkms.rules.importing import ImportPolicy
from hsmkms.rules.rotation import RotationPolicy
from hsmkms.service.runtime.audit_log import AuditLog
from hsmkms.service.runtime.encryption_counter import EncryptionCounter
from hsmkms.service.runtime.last_use import LastUses
from hsmkms.service.runtime.ports import (
    Authoriser,
    Checkpoint,
    Clock,
    Installation,
    Recorder,
    never_drifted,
    no_checkpoint,
)
from hsmkms.service.runtime.record_cache import RecordCache
from hsmkms.service.runtime.row_seals import RowSeals
from hsmkms.service.runtime.tokens import Tokens
from hsmkms.store import installation
from hsmkms.store.engine import Connection, Store


class Core(Struct, kw_only=True):
    """The parts of an open installation.

    ``rotation`` and ``imports``: settings of the operator. ``services``: those that have a key of their own, or ``*``.
    ``grace_hours``: how long an object without a key is kept before it may be removed. ``accept_unknown_principals``:
    policies and grants may name users and roles that do not exist. ``drifted``: true once the clock was moved under
    this process. ``grant_tokens``: verified grant tokens with their claims. ``warned``: key materials that the log has
    warned of. ``reached``: test hook, called after each step. ``witnesses``: the CKA_ID of the key that proves each
    token's identity, by the token's id. ``older``: tokens that were found to be older copies of themselves, by their
    id, with the reason.
    """

    installation: Installation
    store: Store
    tokens: Tokens
    witnesses: dict[str, bytes]
    cache: RecordCache
    leases: EncryptionCounter
    uses: LastUses
    clock: Clock
    rotation: RotationPolicy
    imports: ImportPolicy
    services: tuple[str, ...]
    grace_hours: float
    accept_unknown_principals: bool = False
    authorise: Authoriser
    drifted: Callable[[], bool] = never_drifted
    grant_tokens: dict[str, Claims] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)
    older: dict[str, str] = field(default_factory=dict)
    audit: AuditLog
    seals: RowSeals
    write_audit_record: Recorder
    reached: Checkpoint = no_checkpoint

    @property
    def device(self) -> Device:
        """Return the token on which keys are created."""
        return self.tokens.home

    def follow_installation(self, conn: Connection) -> None:
        """Follow another process that has moved the home, or has recorded that the databases came back."""
        self.tokens.may_have_moved()
        row, known = installation.fetch(conn), self.installation.restored_at
        if row is not None and row.restored_at is not None and (known is None or row.restored_at > known):
            self.installation = replace(self.installation, restored_at=row.restored_at)

    @contextmanager
    def audited_and_sealed(self) -> Iterator[Connection]:
        """Run a write transaction on the control plane: committed at the end of the block, rolled back if it raises.

        Its commit includes, besides the rows of the block and their entries in the change log (``store/changes.py``):

        1. the audit record of the request or act, unfinished, in the outbox (``AuditLog.before_commit``);
        2. new seals of every key, alias and grant that was touched, after checking the old ones, and entries of these
           in the change log (``RowSeals.before_commit``).

        Either both are committed with the block's rows, or none. ``audit.record`` writes the finished record when the
        request ends. Other processes read the change log at their next call.
        """
        with self.store.atomic() as tx:
            yield tx
