"""Render ``/metrics`` in Prometheus's text format: counts of all workers, and the installation's current state."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hsmkms.call_stats import BOUNDS, Count
from hsmkms.config.settings import ServeSettings
from hsmkms.errors import DependencyTimeoutException
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.monitoring import key_metrics
from hsmkms.server.monitoring.certificate import validity
from hsmkms.server.monitoring.health import PARTS, Health
from hsmkms.server.monitoring.worker_counts import Sweeps, Totals
from hsmkms.service.operator.monitoring import Alarms, Figures, Outage, PoolUse, Watch

log = logging.getLogger("hsmkms.http")

FIGURES_SECONDS: Final = 5.0
"""How long figures from the database are cached, however often the page is scraped."""

KEYS_SECONDS: Final = 60.0
"""How long figures of single keys are cached, for which all keys are read."""

_BOUNDS: Final = (*(str(each) for each in BOUNDS), "+Inf")


class Metrics:
    """Renders the metrics page. Thread-safe."""

    def __init__(self, watch: Watch, health: Health, replaced: Heartbeat, settings: ServeSettings) -> None:
        self._watch = watch
        self._most_keys = settings.metrics_keys
        # Read once: a worker serves the certificate that was there when it started.
        self._certificate = None if settings.certificate is None else validity(settings.certificate).end
        self._of_keys: tuple[float, list[Metric]] | None = None
        self._health = health
        self._replaced = replaced
        self._looking = threading.Lock()
        self._figures: tuple[float, Figures] | None = None

    def page(self, totals: Totals) -> bytes:
        """Render the page for these counts. If the database is unavailable, its figures are left out."""
        faults = self._health.faults()
        metrics = [*_of_totals(totals, self._replaced), *_of_health(faults), *_of_outage(self._watch.outage())]
        metrics += _of_certificate(self._certificate)
        if "database" not in faults | self._health.warnings:
            try:
                metrics += [*_of_figures(self._look()), *self._look_at_keys()]
            except DependencyTimeoutException as exc:
                log.warning("/metrics lacks the figures from the database: %s", exc)
        return _rendered(metrics)

    def _look_at_keys(self) -> list[Metric]:
        if not self._most_keys:
            return []
        with self._looking:
            now = time.monotonic()
            if self._of_keys is None or now - self._of_keys[0] >= KEYS_SECONDS:
                self._of_keys = (now, list(key_metrics.metrics_of(*self._watch.keys(self._most_keys))))
            return self._of_keys[1]

    def _look(self) -> Figures:
        with self._looking:
            now = time.monotonic()
            if self._figures is None or now - self._figures[0] >= FIGURES_SECONDS:
                self._figures = (now, self._watch.figures())
            return self._figures[1]


def bare_page(totals: Totals, faults: dict[str, str], replaced: Heartbeat) -> bytes:
    """Render the page of a process that has neither token nor database open."""
    return _rendered([*_of_totals(totals, replaced), *_of_health(faults)])


def _rendered(metrics: list[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(metrics))
    return generate_latest(registry)


class _Collected(Collector):
    """Adapter that passes finished metrics to prometheus_client."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield from self._metrics


# -- one function for each subject ------------------------------------------------------------------------------


def _of_totals(totals: Totals, replaced: Heartbeat) -> Iterator[Metric]:
    yield from _of_counts(totals)
    yield from _of_sweeps(totals.sweeps)
    yield from _of_sessions(totals.sessions, totals.workers)
    yield from _of_alarms(totals.alarms)
    yield CounterMetricFamily(
        "hsmkms_workers_replaced", "Workers that hung in the token and were replaced.", value=replaced.count
    )


def _of_counts(totals: Totals) -> Iterator[Metric]:
    yield _counter("hsmkms_requests", "Requests by operation and outcome.", "operation", totals.requests)
    yield _histogram(
        "hsmkms_request_seconds",
        "What requests took, without the wait for their audit record.",
        "operation",
        totals.requests,
    )
    yield _counter("hsmkms_token_calls", "Calls to the token by outcome.", "call", totals.token_calls)
    yield _histogram("hsmkms_token_call_seconds", "What calls to the token took.", "call", totals.token_calls)


def _of_sweeps(sweeps: Sweeps) -> Iterator[Metric]:
    runs = CounterMetricFamily("hsmkms_sweeps", "Runs of the sweeper by outcome.", labels=["outcome"])
    for outcome, number in sweeps.runs.items():
        runs.add_metric([outcome], number)
    yield runs
    steps = CounterMetricFamily("hsmkms_sweep_steps", "What was due, by kind and outcome.", labels=["kind", "outcome"])
    for kind, by_outcome in sweeps.steps.items():
        for outcome, number in by_outcome.items():
            steps.add_metric([kind, outcome], number)
    yield steps
    if sweeps.last_at:
        yield GaugeMetricFamily("hsmkms_last_sweep_timestamp_seconds", "End of the last run.", value=sweeps.last_at)
        yield GaugeMetricFamily(
            "hsmkms_last_sweep_success", "1 if nothing failed or had to wait in it.", value=float(sweeps.last_well)
        )


def _of_sessions(use: PoolUse, workers: int) -> Iterator[Metric]:
    yield GaugeMetricFamily("hsmkms_workers", "Worker processes.", value=workers)
    yield GaugeMetricFamily("hsmkms_sessions_limit", "Sessions with the token that may be open.", value=use.limit)
    yield GaugeMetricFamily("hsmkms_sessions_open", "Sessions that are open.", value=use.opened)
    yield GaugeMetricFamily("hsmkms_sessions_in_use", "Sessions in which the token works.", value=use.lent)
    yield GaugeMetricFamily("hsmkms_sessions_waiting", "Threads that wait for a session.", value=use.waiting)
    yield GaugeMetricFamily(
        "hsmkms_token_away", "Workers for which the token, or one of several, is away.", value=use.away
    )
    yield GaugeMetricFamily(
        "hsmkms_token_wrong", "Workers for which another token answers in the place of one.", value=use.wrong
    )
    yield CounterMetricFamily("hsmkms_token_outages", "How often the token went away for a worker.", value=use.outages)
    yield CounterMetricFamily("hsmkms_session_waits", "How often a thread had to wait for a session.", value=use.waits)


def _of_alarms(alarms: Alarms) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hsmkms_audit_alarm",
        "1 while the audit log, or what another node has published of its own, contradicts the newest seal.",
        value=float(alarms.audit),
    )
    yield CounterMetricFamily(
        "hsmkms_audit_faults", "How often the audit log could not be written.", value=alarms.audit_faults
    )
    yield GaugeMetricFamily(
        "hsmkms_store_altered", "Keys, aliases, users whose rows were edited by hand.", value=len(alarms.altered)
    )
    yield GaugeMetricFamily(
        "hsmkms_token_older", "Tokens that are older copies of themselves.", value=len(alarms.older)
    )


def _of_health(faults: dict[str, str]) -> Iterator[Metric]:
    ready = GaugeMetricFamily("hsmkms_ready", "1 where /readyz finds nothing wrong.", labels=["part"])
    for part in PARTS:
        ready.add_metric([part], float(part not in faults))
    yield ready


def _of_outage(outage: Outage | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hsmkms_store_away_seconds",
        "How long the database server has not answered this worker; 0 if it answers.",
        value=0.0 if outage is None else outage.seconds,
    )


def _of_certificate(ends: datetime | None) -> Iterator[Metric]:
    if ends is not None:
        yield GaugeMetricFamily(
            "hsmkms_certificate_expiry_timestamp_seconds",
            "When the certificate of the endpoint, or one of its chain, expires.",
            value=ends.timestamp(),
        )


def _of_figures(figures: Figures) -> Iterator[Metric]:
    states = GaugeMetricFamily("hsmkms_keys", "KMS keys by state.", labels=["state"])
    for state, number in figures.keys_by_state.items():
        states.add_metric([state], number)
    yield states
    yield GaugeMetricFamily("hsmkms_due", "Steps of maintenance that are due.", value=figures.due)
    if figures.next_due is not None:
        yield GaugeMetricFamily(
            "hsmkms_next_due_timestamp_seconds",
            "When the next rotation, expiry or deletion is due.",
            value=figures.next_due.timestamp(),
        )
    for name, text, date in (
        ("hsmkms_next_material_expiry_timestamp_seconds", "When imported material first expires.", figures.next_expiry),
        ("hsmkms_next_deletion_timestamp_seconds", "When a key is first deleted.", figures.next_deletion),
    ):
        if date is not None:
            yield GaugeMetricFamily(name, text, value=date.timestamp())
    yield GaugeMetricFamily(
        "hsmkms_gcm_budget_used_ratio",
        "Share of its 2^32 encryptions that the most used key material has made.",
        value=figures.budget_used,
    )
    beyond = GaugeMetricFamily(
        "hsmkms_gcm_budget_materials", "Key materials that have used this share or more.", labels=["share"]
    )
    beyond.add_metric(["0.5"], figures.half_spent)
    beyond.add_metric(["0.9"], figures.nearly_spent)
    yield beyond
    yield GaugeMetricFamily(
        "hsmkms_ha_not_replicated",
        "Objects made while a member of an HA group could not be asked for them, and not seen on it since.",
        value=figures.unreplicated,
    )


def _counter(name: str, text: str, label: str, counts: list[Count]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label, "outcome"])
    for each in counts:
        family.add_metric([each.what, each.outcome], sum(each.classes))
    return family


def _histogram(name: str, text: str, label: str, counts: list[Count]) -> Metric:
    """Build a histogram of durations over all outcomes; Prometheus's buckets are cumulative."""
    classes: dict[str, list[int]] = defaultdict(lambda: [0] * len(_BOUNDS))
    seconds: dict[str, float] = defaultdict(float)
    for each in counts:
        classes[each.what] = [a + b for a, b in zip(classes[each.what], each.classes, strict=True)]
        seconds[each.what] += each.seconds
    family = HistogramMetricFamily(name, text, labels=[label])
    for what, numbers in classes.items():
        family.add_metric([what], list(zip(_BOUNDS, accumulate(numbers), strict=True)), seconds[what])
    return family


__all__ = ["CONTENT_TYPE", "Metrics", "bare_page"]
