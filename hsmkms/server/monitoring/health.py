"""Whether the process lives, and whether it can serve: it asks the token and the database, at most once a second.

A look that hangs in the token keeps nobody: whoever asks is told so after a while.
"""

import threading
import time
from typing import Final

from hsmkms.errors import HsmKmsError
from hsmkms.service.operator.monitoring import Watch

PARTS: Final = ("token", "database", "disk", "clock")
"""What may be at fault: the keys of ``Health.faults``, and the parts of the metric ``hsmkms_ready``."""

CACHED_SECONDS: Final = 1.0

ANSWER_SECONDS: Final = 2.0
"""How long somebody waits for a look that is under way."""


class Health:
    """Readiness of an open installation. Thread-safe: several askers share one look."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._changed = threading.Condition()
        self._looking = ""
        self._looked_at: float | None = None
        self._faults: dict[str, str] = {}
        self.warnings: dict[str, str] = {}
        """What is wrong and keeps nobody from being served, by part, as of the last look."""

    def faults(self) -> dict[str, str]:
        """What is wrong, by part; empty if everything is well."""
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
        found: dict[str, str] = {}
        try:
            found = self._find()
        except Exception as exc:
            found = {self._looking: f"{type(exc).__name__}: the log tells more"}
            raise
        finally:
            with self._changed:
                self._faults, self._looked_at, self._looking = found, time.monotonic(), ""
                self._changed.notify_all()

    def _find(self) -> dict[str, str]:
        checks = {
            "token": self._watch.check_token,
            "database": self._watch.check_database,
            "disk": self._watch.check_disk,
        }
        found = {}
        for name, check in checks.items():
            self._looking = name
            try:
                check()
            except HsmKmsError as exc:
                found[name] = f"{exc.code}: {exc}"
        older = self._watch.older_tokens() if not found else []
        self.warnings = {"token": "; ".join(older)} if older else {}
        doubt = self._watch.clock_doubt() if "database" not in found else None
        return found | ({"clock": doubt} if doubt is not None else {})
