"""Metrics of single keys, which only an operator's setting switches on: each key is a series of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from hsmkms.service.operator.rotation_report import KeyPosture

_LABELS: Final = ("key_id", "region")
"""No alias: names change, and are other people's texts."""


def _seconds(date: datetime | None) -> float | None:
    return None if date is None else date.timestamp()


_METRICS: Final[Mapping[str, tuple[str, Callable[[KeyPosture], float | None]]]] = {
    "hsmkms_key_last_used_timestamp_seconds": ("Last use of a key.", lambda key: _seconds(key.last_used)),
    "hsmkms_key_next_rotation_timestamp_seconds": ("Next rotation of a key.", lambda key: _seconds(key.next_rotation)),
    "hsmkms_key_expiry_timestamp_seconds": (
        "When imported material expires.",
        lambda key: _seconds(key.expires_at),
    ),
    "hsmkms_key_deletion_timestamp_seconds": ("When a key is deleted.", lambda key: _seconds(key.deletion_date)),
    "hsmkms_key_encryptions": ("Encryptions with a key's current material.", lambda key: key.encryptions),
}


def metrics_of(keys: Sequence[KeyPosture], left_out: int) -> Iterator[Metric]:
    """Yield the metrics of these keys, and how many have none."""
    for name, (text, figure) in _METRICS.items():
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        for key in keys:
            value = figure(key)
            if value is not None:
                family.add_metric([key.key_id, key.region], value)
        yield family
    yield GaugeMetricFamily("hsmkms_keys_without_metrics", "Keys beyond serve.metrics_keys.", value=left_out)
