"""What one worker process has open: the installation, its endpoint, and the sweeper that does what is due."""

import logging
import threading
from datetime import timedelta
from typing import Final

from hsmkms.config import ServeSettings
from hsmkms.errors import HsmKmsError
from hsmkms.http.endpoint import Endpoint
from hsmkms.http.health import Health
from hsmkms.http.observer import Observer
from hsmkms.http.quota import DEFAULT_RATES, Quota
from hsmkms.service.kms import Kms

log = logging.getLogger("hsmkms.http")

SWEEP_SECONDS: Final = 60.0
"""How often a worker looks for what is due; one of all workers then does it."""


class Serving:
    """An open installation with everything that answers for it."""

    def __init__(self, kms: Kms, settings: ServeSettings, workers: int) -> None:
        self.kms = kms
        self.threads = settings.threads
        rates = {name: rate / workers for name, rate in {**DEFAULT_RATES, **settings.quotas}.items()}
        self.endpoint = Endpoint(kms, skew=timedelta(minutes=settings.clock_skew_minutes), quota=Quota(rates))
        self.health = Health(kms)
        self.observer = Observer(log_requests=settings.log_requests)
        self._stopped = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="hsmkms sweeper", daemon=True)

    def start_sweeper(self) -> None:
        """Begin to look for what is due, now and then every minute."""
        self._sweeper.start()

    def close(self) -> None:
        """Stop sweeping, and close the installation."""
        self._stopped.set()
        if self._sweeper.is_alive():
            self._sweeper.join()
        self.kms.close()

    def _sweep(self) -> None:
        while True:
            try:
                self.kms.operator.maintain()
            except HsmKmsError as exc:
                log.error("what is due could not be done, and stays due: %s: %s", exc.code, exc)  # noqa: TRY400
            except Exception:
                log.exception("the sweeper met a fault of hsmkms")
            if self._stopped.wait(SWEEP_SECONDS):
                return
