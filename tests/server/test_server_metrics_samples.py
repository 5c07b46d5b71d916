"""The samples for monitoring, and metrics that a setting or a certificate adds."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsmkms.config.settings import ServeSettings
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.monitoring.metrics import Metrics
from hsmkms.server.monitoring.worker_counts import add_up
from hsmkms.service.operator.monitoring import Figures

SAMPLES = Path(__file__).parent.parent.parent / "conf" / "monitoring"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: it is in Debian's package prometheus"
)


class Quiet:
    """A watch and a health without faults."""

    warnings: ClassVar[dict[str, str]] = {}

    def outage(self) -> None:
        """None."""

    def faults(self) -> dict[str, str]:
        """None."""
        return {}

    def figures(self) -> Figures:
        """Of an installation without keys, one of which expires."""
        return Figures(
            keys_by_state={},
            due=0,
            next_due=None,
            next_expiry=datetime(2027, 1, 1, tzinfo=UTC),
            next_deletion=None,
            budget_used=0,
            half_spent=0,
            nearly_spent=0,
            unreplicated=0,
        )


def page(settings: ServeSettings) -> str:
    """The metrics of a server with these settings."""
    quiet = Quiet()
    metrics = Metrics(quiet, quiet, Heartbeat(), settings)  # type: ignore[arg-type]  # all that it asks
    return metrics.page(add_up([], 0.0)).decode()


def test_no_metrics_of_keys_by_default() -> None:
    """Without the setting no key is looked at, let alone shown."""
    shown = page(ServeSettings())
    assert "hsmkms_key_" not in shown
    assert "hsmkms_keys_without_metrics" not in shown
    assert "hsmkms_next_material_expiry_timestamp_seconds 1.7987616e+09" in shown
    assert "hsmkms_next_deletion_timestamp_seconds" not in shown


def test_certificate(tmp_path: Path) -> None:
    """The end of the certificate that the worker serves is a metric; without TLS there is none."""
    key, end = ec.generate_private_key(ec.SECP256R1()), datetime(2027, 1, 1, tzinfo=UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kms")])
    dates = (end - timedelta(days=90), end)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), *dates)
    file = tmp_path / "chain.pem"
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    assert "hsmkms_certificate_expiry_timestamp_seconds 1.7987616e+09" in page(ServeSettings(certificate=file))
    assert "hsmkms_certificate" not in page(ServeSettings())


@needs_promtool
def test_promtool(tmp_path: Path) -> None:
    """Prometheus's own tool accepts alerts and configuration, and the alerts fire for what they are about."""
    assert PROMTOOL is not None
    for each in (SAMPLES / "alerts.yml", SAMPLES / "prometheus.yml", Path(__file__).with_name("alerts_test.yml")):
        shutil.copy(each, tmp_path)
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([PROMTOOL, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
