"""What ``/metrics`` shows: the counts of all workers, and the state of the installation at this moment."""

import os
from collections.abc import Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector

from hsmkms.service.kms import Kms

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where the workers' counts are kept; the server sets it before prometheus_client is loaded."""


class _Installation(Collector):
    """Keys by state, what is due, and how much of its budget the most used key material has spent."""

    def __init__(self, kms: Kms) -> None:
        self._watch = kms.operator.watch

    def collect(self) -> Iterator[Metric]:
        """Ask the database."""
        figures = self._watch.figures()
        states = GaugeMetricFamily("hsmkms_keys", "KMS keys by state.", labels=["state"])
        for state, number in figures.keys_by_state.items():
            states.add_metric([state], number)
        yield states
        yield GaugeMetricFamily("hsmkms_due", "Steps of maintenance that are due.", value=figures.due)
        yield GaugeMetricFamily(
            "hsmkms_gcm_budget_used_ratio",
            "Share of its 2^32 encryptions that the most used key material has made.",
            value=figures.budget_used,
        )
        yield GaugeMetricFamily(
            "hsmkms_sessions", "Sessions with the token that this worker has open.", value=figures.sessions
        )
        yield GaugeMetricFamily(
            "hsmkms_sessions_waiting", "Threads of this worker that wait for a session.", value=figures.sessions_waiting
        )


def page(kms: Kms) -> bytes:
    """The page in Prometheus's text format."""
    registry = CollectorRegistry()
    if os.environ.get(FOLDER_VARIABLE):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
        pages = generate_latest(registry)
    else:
        pages = generate_latest(REGISTRY)
    own = CollectorRegistry()
    own.register(_Installation(kms))
    return pages + generate_latest(own)


__all__ = ["CONTENT_TYPE", "page"]
