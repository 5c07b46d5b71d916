"""State of a worker process: the open installation, its endpoints and counts, and its background threads."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hsmkms.config.settings import ServeSettings
from hsmkms.errors import HsmKmsError
from hsmkms.kms import Kms
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.monitoring.health import Health
from hsmkms.server.monitoring.logs import RequestLog
from hsmkms.server.monitoring.metrics import Metrics
from hsmkms.server.monitoring.request_observer import Observer
from hsmkms.server.monitoring.worker_counts import PUBLISH_SECONDS, Board, Snapshot, Sweeps
from hsmkms.server.protocols import PROTOCOLS
from hsmkms.service.operator.monitoring import StepOutcome
from hsmkms.service.operator.operator import Operator

log = logging.getLogger("hsmkms.http")

SWEEP_SECONDS: Final = 60.0
"""Pause between two sweeps; one of all workers does each."""

SEAL_SECONDS: Final = 60.0
"""Pause between two seals of the audit log, if it has new records."""

BEAT_SECONDS: Final = 3.0
"""Pause between two heartbeats of this worker, if several nodes may use the database."""

PUBLISH_END_SECONDS: Final = 1.0
"""Pause between two publications of the end of this worker's audit log, if several nodes may use the database."""

FILES_SECONDS: Final = 5.0
"""Pause between two looks whether the databases are still those that were opened."""

BRIDGE_SECONDS: Final = 1.0
"""Pause between two looks whether enough encryptions are reserved for an outage of the database."""

_NOT_DONE: Final = frozenset({StepOutcome.FAILED, StepOutcome.HELD})


class WorkerState:
    """An open installation with its endpoints, counts and background threads.

    ``board``: the folder of all workers' counts; ``replaced`` counts workers that hung and were replaced.
    """

    def __init__(self, kms: Kms, settings: ServeSettings, board: Path, replaced: Heartbeat) -> None:
        self.kms = kms
        self.threads = settings.threads
        self.hang_seconds = settings.hang_seconds
        self.endpoints = {each.name: each.open(kms, settings) for each in PROTOCOLS}
        self.observer = Observer(RequestLog(settings.log_format) if settings.log_requests else None)
        self._operator: Operator = kms.operator
        self._watch = self._operator.watch
        self.free = self._watch.free
        self.health = Health(self._watch)
        self._metrics = Metrics(self._watch, self.health, replaced, settings)
        self._board = Board(board)
        self._sweeps = Sweeps()
        self._publishing = threading.Lock()
        self._stopped = threading.Event()
        periodic: list[tuple[Callable[[], None], float]] = [
            (self.sweep, SWEEP_SECONDS),
            (self.seal, SEAL_SECONDS),
            (self.publish, PUBLISH_SECONDS),
            (self.check_files, FILES_SECONDS),
        ]
        if self._operator.audit.has_nodes:
            periodic.append((self.publish_audit_end, PUBLISH_END_SECONDS))
        if self._watch.changes.bridged_seconds:
            periodic.append((self.bridge_outages, BRIDGE_SECONDS))
        if self._operator.nodes.shared:
            periodic.append((self.beat, BEAT_SECONDS))
        self._threads = [
            threading.Thread(target=self._repeat, args=each, name=f"hsmkms {each[0].__name__}", daemon=True)
            for each in periodic
        ]

    def start(self) -> None:
        """Start the threads that sweep, seal, publish counts and check files, each at once and then periodically."""
        if self._operator.nodes.shared:
            self._run(self.beat)  # before the first request: who sees this worker ready finds it in the list of nodes
        for each in self._threads:
            each.start()

    def close(self) -> None:
        """Stop sweeping, publish the last counts, and close the installation."""
        self._stopped.set()
        for each in self._threads:
            if each.is_alive():
                each.join()
        self.publish(ended=True)
        self._operator.nodes.end_beats()
        self.kms.close()

    def metrics(self) -> bytes:
        """Render /metrics with this worker's present counts, and those of the others as of a second ago."""
        self.publish()
        return self._metrics.page(self._board.totals())

    def publish(self, *, ended: bool = False) -> None:
        """Write this worker's counts to the shared folder."""
        with self._publishing:
            self._board.write(
                Snapshot(
                    requests=self.observer.requests.counts(),
                    token_calls=self._watch.token_calls(),
                    sweeps=self._sweeps,
                    sessions=self._watch.sessions(),
                    alarms=self._watch.alarms(),
                    written_at=0.0 if ended else time.time(),
                )
            )

    def sweep(self) -> None:
        """Sweep: do what is due, unless another process is sweeping."""
        try:
            report = self._operator.maintain()
        except HsmKmsError:
            self._sweeps.note("failed", (), time.time())
            raise
        held = report.doubt is not None or any(step.outcome in _NOT_DONE for step in report.steps)
        outcome = "busy" if report.busy else "incomplete" if held else "done"
        self._sweeps.note(outcome, [(step.kind, step.outcome) for step in report.steps], time.time())

    def seal(self) -> None:
        """Seal the audit log, and recover the records of processes that died."""
        self._operator.audit.look_after()

    def publish_audit_end(self) -> None:
        """Publish the end of this worker's lane of the audit log, for the seals of all nodes."""
        self._operator.audit.publish_end()

    def beat(self) -> None:
        """Show the other nodes that this worker runs. Once its node was removed, every request is refused."""
        self._operator.nodes.beat()

    def check_files(self) -> None:
        """Check that the databases are still those that were opened."""
        self._watch.check_files()

    def bridge_outages(self) -> None:
        """Reserve what requests need while the database is away."""
        self._operator.bridge_outages()

    def _repeat(self, act: Callable[[], None], seconds: float) -> None:
        while True:
            self._run(act)
            if self._stopped.wait(seconds):
                return

    def _run(self, act: Callable[[], None]) -> None:
        """Run an act; an error is logged, since it is run again."""
        try:
            act()
        except HsmKmsError as exc:
            log.error("%s failed and is tried again: %s: %s", act.__name__, exc.code, exc)  # noqa: TRY400 - no bug
        except Exception:
            log.exception("%s failed by an unexpected exception and is tried again", act.__name__)
