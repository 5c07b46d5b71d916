"""Write the audit log: one record for each request and each act, on disk before the response is sent.

A change of the control plane commits a preliminary record in the same transaction, in the outbox; the log gets the
final record when the request ends. So no change is without a record: the next process that locks the lane of a process
that died moves the records from the outbox to the log.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from hsmkms import uuids
from hsmkms.errors import HsmKmsError, KMSInternalException, StoreError
from hsmkms.model.audit import INTERNAL, KMS_SOURCE, AuditRecord, Durability, Head
from hsmkms.model.caller import Caller, local_root
from hsmkms.process import ForkGuard
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.rules.audit import record as audit_record
from hsmkms.rules.audit.any_text import encode_any
from hsmkms.rules.audit.fast_json import Forms
from hsmkms.rules.audit.policy import AuditPolicy
from hsmkms.rules.audit.record import Event, Occasion, Outcome, RecordedCall
from hsmkms.service.runtime.audit_acts import Act, Threads
from hsmkms.service.runtime.audit_lane import Journal
from hsmkms.service.runtime.gil_queue import GilQueue
from hsmkms.service.runtime.outbox_recovery import OutboxRecovery
from hsmkms.service.runtime.ports import KnownEpoch
from hsmkms.store import audit_files, changes, node_id, outbox
from hsmkms.store.engine import Connection, Store

log = logging.getLogger("hsmkms.service")

REFUSED: Final = "The audit log cannot be written, so the request was refused: see the log of hsmkms."
INTERRUPTED: Final = "the process ended before the outcome was known; the change itself was committed"


class AuditLog:
    """Writes the audit records of this process. Thread-safe; raises in a forked child."""

    def __init__(
        self,
        store: Store,
        installation_id: str,
        occasion: Occasion,
        policy: AuditPolicy,
        known: KnownEpoch,
        clock: Callable[[], datetime],
    ) -> None:
        self.turns = GilQueue()
        """The queue of threads with requests."""
        self.folder = store.folder / audit_files.FOLDER
        self.node_id = node_id.read(store.folder) or ""
        """The node whose log this is; "" where the databases have always been files of the data folder."""
        self.policy = policy
        self.held_back = False
        """True if responses are delayed elsewhere until their records are on disk (server/audit_gate.py)."""
        self.faults = 0
        """Number of failures to write records in time."""
        self.alarm: str | None = None
        """Problem that the sealer's last check found, or None."""
        self._store = store
        self._installation_id = installation_id
        self._occasion = occasion
        self._forms = Forms(occasion, secrets.token_hex(16))
        self._known = known
        self._clock = clock
        self._on = policy.durability is not Durability.OFF
        self._waits = policy.durability is Durability.COMMIT
        self.holds_answers = self._waits
        """True if a response may be sent only after its record is on disk."""
        self._guard = ForkGuard()
        self._journal = self._new_journal()
        self._recovery = OutboxRecovery(store, self.folder, self.node_id, self._new_journal)
        self._threads = Threads()
        self._moving = threading.Lock()
        self._moved: dict[int, int] = {}
        self._recovered = False
        self._stopped = threading.Event()
        self._flusher: threading.Thread | None = None

    @property
    def used(self) -> bool:
        """True once this process (not its parent) has written a record."""
        return self._journal.used and not self._guard.foreign

    @property
    def end(self) -> tuple[str, Head] | None:
        """The lane of this process, and its last record on disk; None if it has written none."""
        return None if self._guard.foreign else self._journal.end

    # -- requests -----------------------------------------------------------------------------------------------

    def begin(self, call: RecordedCall, request: Struct) -> None:
        """Begin a request. KMSInternalException if it must be refused, since it could not be recorded."""
        if not self._on:
            return
        here = self._threads.state
        if not here.event_ids:
            here.event_ids = uuids.block()
        here.doing, here.act, here.event_id = (call, request), None, here.event_ids.pop()
        if self._journal.broken:
            self._try_again(call.operation)

    def record(self, call: RecordedCall, request: Struct, response: Struct | None, error: HsmKmsError | None) -> None:
        """Record the end of a request. KMSInternalException if its response must not be sent without a record."""
        if not self._on:
            return
        here = self._threads.state
        act, here.doing, here.act = here.act, None, None
        if error is None:
            made = self._forms.answered(call, call.now, request, response, here.event_id)
        else:
            made = self._refused(call.caller, audit_record.event_of(call, call.now, request, here.event_id), error)
        row_id = act.row_id if act is not None else None
        try:
            if row_id is None and self.held_back and self._recovered:
                self._journal.add(made)  # nothing else is left to do: the audit gate flushes
            else:
                self._add(made, row_id)
        except StoreError as exc:
            self._missed(exc, call.operation)

    def refuse(self, caller: Caller, name: str, error: HsmKmsError) -> None:
        """Record a request that was refused before the pipeline: for its signature, its form or a quota."""
        if not self._on:
            return
        event = Event(name=name, at=self._clock(), event_id=uuids.new())
        made = self._refused(caller, event, error)
        try:
            self._add(made, None)
        except StoreError as exc:
            self._missed(exc, "Get")

    def _refused(self, caller: Caller, event: Event, error: HsmKmsError) -> bytes:
        return encode_any(audit_record.of_request(self._occasion, caller, event, Outcome(error=error)))

    def settle(self, operations: list[str]) -> dict[str, str]:
        """Wait until every record is on disk; for callers that delay responses.

        Returns the operations whose responses must not be sent if that fails, each with its error message.
        """
        try:
            self._journal.flush()
        except StoreError as exc:
            self.faults += 1
            log.error("%s", exc)  # noqa: TRY400 - one sentence is enough
            return {each: REFUSED for each in operations if self._must_be_kept(each)}
        return {}

    # -- acts that are no requests ------------------------------------------------------------------------------

    @contextmanager
    def acting(
        self, name: str, region: str, shown: Mapping[str, Any] | None = None, *, source: str = KMS_SOURCE
    ) -> Iterator[None]:
        """Record an act of the operator, as the account's root, when the block ends, also when it fails."""
        if not self._on:
            yield
            return

        now, root = self._clock(), local_root(self._occasion.account, region)

        def build(event_id: str, error: HsmKmsError | None = None) -> AuditRecord:
            event = Event(name=name, at=now, event_id=event_id, source=source, shown=audit_record.limited(shown))
            return audit_record.of_request(self._occasion, root, event, Outcome(error=error))

        if self._journal.broken:
            self._try_again(name)
        before, act = self._threads.state.act, Act(build, uuids.new())
        self._threads.state.act = act
        fault: HsmKmsError | None = None
        try:
            yield
        except HsmKmsError as exc:
            fault = exc
            raise
        except Exception as exc:
            fault = KMSInternalException(type(exc).__name__)
            raise
        finally:
            self._threads.state.act = before
            try:
                self._add(encode_any(build(act.event_id, fault)), act.row_id)
            except StoreError as exc:
                self._missed(exc, name)

    def event(
        self, name: str, region: str, arn: str, details: Mapping[str, Any], error: HsmKmsError | None = None
    ) -> None:
        """Record an action of hsmkms itself; within a transaction, only if it is committed."""
        if not self._on:
            return
        made = AuditRecord(
            user_identity=audit_record.internal_identity(self._occasion.account),
            event_time=audit_record.event_time(self._clock()),
            event_name=name,
            aws_region=region,
            source_ip_address=INTERNAL,
            user_agent=INTERNAL,
            error_code=UNSET if error is None else error.code,
            error_message=UNSET if error is None else str(error)[: audit_record.MAX_MESSAGE],
            event_id=uuids.new(),
            read_only=False,
            resources=audit_record.resources((arn,), self._occasion.account),
            event_type="AwsServiceEvent",
            recipient_account_id=self._occasion.account,
            service_event_details=details,
        )
        record = encode_any(made)
        if self._store.meta.writing_here:
            self._threads.state.noted.append((made.event_id, record))
            return
        try:
            self._add(record, None)
        except StoreError as exc:
            self._missed(exc, name)

    # -- the companion of the control-plane database ------------------------------------------------------------

    def before_commit(self, tx: Connection) -> None:
        """Write the records of the change to the outbox, in its own transaction; remove records that the log has."""
        here = self._threads.state
        lane = self._recovery.address(self._take())
        here.rows = [outbox.put(tx, lane, event_id, record) for event_id, record in here.noted]
        act = self._current_act()
        if act is not None and act.row_id is None:
            act.row_id = outbox.put(tx, lane, act.event_id, encode_any(_unfinished(act.build(act.event_id))))
            here.begun_here = True
        self._remove_moved(tx)

    def after_commit(self) -> None:
        """Move the records of the transaction to the log."""
        here = self._threads.state
        noted, here.noted, here.begun_here = here.noted, [], False
        try:
            for (_, record), row_id in zip(noted, here.rows, strict=True):
                self._note_moved(row_id, self._journal.add(record))
            if noted and here.doing is None and here.act is None and self._waits:
                self._journal.flush()
        except StoreError as exc:
            self._missed(exc, "Get")  # the outbox has it

    def rolled_back(self) -> None:
        """Drop the records of the transaction."""
        here = self._threads.state
        here.noted = []
        if here.begun_here and here.act is not None:
            here.act.row_id = None
        here.begun_here = False

    def _current_act(self) -> Act | None:
        here = self._threads.state
        if here.act is None and here.doing is not None:
            call, request = here.doing
            here.act = Act(lambda event_id: self._begun(call, request, event_id), here.event_id)
        return here.act

    def _begun(self, call: RecordedCall, request: Struct, event_id: str) -> AuditRecord:
        """Build the preliminary record of a request."""
        event = audit_record.event_of(call, call.now, request, event_id)
        outcome = Outcome(used=audit_record.materials(None, call.material_id))
        return audit_record.of_request(self._occasion, call.caller, event, outcome)

    def _remove_moved(self, tx: Connection) -> None:
        with self._moving:
            done = [row_id for row_id, number in self._moved.items() if number <= self._journal.safe]
            for row_id in done:
                del self._moved[row_id]  # if this is rolled back, the next holder of the lane finds that the log has it
        if done:
            outbox.remove(tx, done)

    def _note_moved(self, row_id: int, number: int) -> None:
        with self._moving:
            self._moved[row_id] = number

    # -- writing ------------------------------------------------------------------------------------------------

    def _add(self, record: bytes, row_id: int | None) -> None:
        if not self._recovered:
            self._take()
        number = self._journal.add(record)
        if row_id is not None:
            self._note_moved(row_id, number)
        if self._waits:
            if not self.held_back:
                self._journal.flush(number)
        elif self._flusher is None:
            self._start_flusher()

    def _take(self) -> str:
        """Lock a lane; records that its last holder left in the outbox are moved first."""
        lane = self._journal.take()
        if lane is None:
            raise StoreError("no lane of the audit log could be taken")
        if not self._recovered:
            self._recovered = True
            for row_id in self._recovery.move(self._journal, lane):
                self._note_moved(row_id, 0)
        return lane

    def recover_others(self) -> None:
        """Move the outbox records of processes that died, and of nodes that were removed, to the log."""
        if self._on:
            self._recovery.move_all()

    def _new_journal(self, only: str | None = None) -> Journal:
        segment_bytes = self.policy.segment_bytes
        return Journal(self.folder, self._genesis, self._known, self._newest_change, segment_bytes, only, self.turns)

    def _genesis(self, lane: str) -> str:
        return audit_chain.genesis(self._installation_id, lane, self.node_id)

    def _newest_change(self) -> int:
        with self._store.reading() as conn:
            return changes.latest(conn)

    def _must_be_kept(self, operation: str) -> bool:
        return self.policy.refuse and not audit_record.only_looks(operation)

    def _try_again(self, operation: str) -> None:
        try:
            self._journal.flush()
        except StoreError as exc:
            self._missed(exc, operation)

    def _missed(self, fault: StoreError, operation: str) -> None:
        """Handle a failure to write: the records stay in memory, and the next request tries again."""
        self.faults += 1
        log.error("%s", fault)
        if self._must_be_kept(operation):
            raise KMSInternalException(REFUSED) from fault

    def _start_flusher(self) -> None:
        with self._moving:
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_now_and_then, name="hsmkms audit", daemon=True)
                self._flusher.start()

    def _flush_now_and_then(self) -> None:
        while not self._stopped.wait(self.policy.interval_seconds):
            try:
                self._journal.flush()
            except StoreError as exc:
                self.faults += 1
                log.error("%s", exc)  # noqa: TRY400 - one sentence is enough

    # -- the end ------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until every record is on disk. StoreError if that fails."""
        self._journal.flush()

    def tidy(self) -> None:
        """Wait until every record is on disk, and remove records from the outbox that the log has."""
        self._journal.flush()
        if self._moved:
            with self._store.atomic():
                pass  # ``before_commit`` removes them

    def close(self) -> None:
        """Write the remaining records and release the lane. Errors are logged: the outbox has the changes."""
        if self._guard.foreign:
            return
        self._stopped.set()
        try:
            self.tidy()
        except HsmKmsError as exc:
            log.error("%s", exc)  # noqa: TRY400 - one sentence is enough
        try:
            self._journal.close()
        except StoreError as exc:
            log.error("%s", exc)  # noqa: TRY400 - see above


def _unfinished(record: AuditRecord) -> AuditRecord:
    return replace(record, additional_event_data={"outcome": INTERRUPTED})
