"""Whether the process lives, and whether it can serve: it asks the token and the database, at most once a second."""

import threading
import time
from typing import Final

from hsmkms.errors import HsmKmsError
from hsmkms.service.watch import Watch

CACHED_SECONDS: Final = 1.0


class Health:
    """Readiness of an open installation. Thread-safe: several askers share one look."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._faults: dict[str, str] = {}

    def faults(self) -> dict[str, str]:
        """What is wrong, by part; empty if everything is well."""
        with self._looking:
            now = time.monotonic()
            if self._looked_at is None or now - self._looked_at >= CACHED_SECONDS:
                self._faults = self._look()
                self._looked_at = time.monotonic()
            return self._faults

    def _look(self) -> dict[str, str]:
        checks = {"token": self._watch.check_token, "database": self._watch.check_database}
        found = {}
        for name, check in checks.items():
            try:
                check()
            except HsmKmsError as exc:
                found[name] = f"{exc.code}: {exc}"
        doubt = self._watch.clock_doubt() if "database" not in found else None
        return found | ({"clock": doubt} if doubt is not None else {})
