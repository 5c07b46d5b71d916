"""Check readiness: token, database, disk and clock, at most once a second.

A check that hangs in the token does not block a request: it gets a timeout fault after a while.
"""

import threading
import time
from typing import Final

from hsmkms.errors import HsmKmsError
from hsmkms.service.operator.monitoring import Watch

PARTS: Final = ("token", "database", "disk", "clock")
"""Checked parts: the keys of ``Health.faults``, and the parts of the metric ``hsmkms_ready``."""

CACHED_SECONDS: Final = 1.0

ANSWER_SECONDS: Final = 2.0
"""How long a request waits for a check in progress."""


class Health:
    """Readiness of an open installation. Thread-safe: concurrent requests share one check."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._changed = threading.Condition()
        self._looking = ""
        self._looked_at: float | None = None
        self._faults: dict[str, str] = {}
        self.warnings: dict[str, str] = {}
        """Problems that do not prevent serving, by part, as of the last check."""

    def faults(self) -> dict[str, str]:
        """Return the faults by part; empty if everything is well."""
        with self._changed:
            if not self._looking and self._is_old():
                self._looking = "token"
                threading.Thread(target=self._look, name="hsmkms health", daemon=True).start()
            if not self._changed.wait_for(lambda: not self._looking, ANSWER_SECONDS):
                return self._faults | {self._looking: "DependencyTimeoutException: it does not answer"}
            return self._faults

    def _is_old(self) -> bool:
        return self._looked_at is None or time.monotonic() - self._looked_at >= CACHED_SECONDS

    def _look(self) -> None:
        faults: dict[str, str] = {}
        try:
            faults = self._find()
        except Exception as exc:
            faults = {self._looking: f"{type(exc).__name__}: the log tells more"}
            raise
        finally:
            with self._changed:
                self._faults, self._looked_at, self._looking = faults, time.monotonic(), ""
                self._changed.notify_all()

    def _find(self) -> dict[str, str]:
        checks = {
            "token": self._watch.check_token,
            "database": self._watch.check_database,
            "disk": self._watch.check_disk,
        }
        faults = {}
        for name, check in checks.items():
            self._looking = name
            try:
                check()
            except HsmKmsError as exc:
                faults[name] = f"{exc.code}: {exc}"
        without_database = "database" in faults
        warnings: dict[str, str] = {}
        outage = self._watch.outage()
        if outage is not None:
            (warnings if outage.is_bridged else faults)["database"] = outage.message
            if outage.is_bridged:
                faults.pop("database", None)
        older = self._watch.older_tokens() if not without_database and not faults else []
        self.warnings = warnings | ({"token": "; ".join(older)} if older else {})
        doubt = self._watch.clock_doubt() if not without_database else None
        faults |= {"clock": doubt} if doubt is not None else {}
        drained = self._node_fault() if not without_database else None
        return faults | ({"node": drained} if drained is not None else {})

    def _node_fault(self) -> str | None:
        """Return why no new requests are to be sent to this node, or None."""
        self._looking = "node"
        try:
            return self._watch.drained()
        except HsmKmsError as exc:
            return f"{exc.code}: {exc}"
