"""What operators see of a server with two workers: metrics, readiness, logs, and the sweeper inside."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import Struct
from raw_client import call, exchange, raw
from waiting import until

from hsmkms.call_stats import BOUNDS, Tally
from hsmkms.config.settings import ServeSettings
from hsmkms.errors import DependencyTimeoutException, HsmKmsError, TokenUnavailableError
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.monitoring import worker_counts
from hsmkms.server.monitoring.health import Health
from hsmkms.server.monitoring.logs import MAX_TEXT, RequestLine, RequestLog
from hsmkms.server.monitoring.metrics import Metrics
from hsmkms.server.monitoring.worker_counts import Snapshot, Sweeps, add_up
from hsmkms.service.operator.monitoring import Alarms, Outage, PoolUse
from hsmkms.testing import Endpoint

MAKE = Path(__file__).parent / "programs" / "make_monitored.py"
PAGE = Path(__file__).parent.parent.parent / "hsmkms" / "guide" / "monitoring.md"
SAMPLES = PAGE.parent.parent.parent / "conf" / "monitoring"
SOMETIMES = {
    "hsmkms_next_due_timestamp_seconds",
    "hsmkms_next_material_expiry_timestamp_seconds",
    "hsmkms_next_deletion_timestamp_seconds",
    "hsmkms_certificate_expiry_timestamp_seconds",
    "hsmkms_last_sweep_success",
    "hsmkms_last_sweep_timestamp_seconds",
}
"""Metrics that are there only if something will be due, with TLS, or after the first sweep."""
SECRET_TEXT = b"a plaintext that nobody must find in a log"
PATIENCE = 120.0


class Served(Struct, kw_only=True):
    """A server of two workers, its log, and the folder of its installation."""

    endpoint: Endpoint
    process: "subprocess.Popen[bytes]"
    log: Path
    folder: Path

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics by name and labels."""
        _, _, body = exchange(self.endpoint, raw("GET", "/metrics", {"Host": "x"}))
        lines = (line for line in body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def lines(self) -> list[dict[str, Any]]:
        """The workers' log so far, without what the supervisor writes for people."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if not line.startswith("hsmkms: listening on ")]


@pytest.fixture(scope="module")
def served(scratch: Path) -> Iterator[Served]:
    """A server with a log, on an installation in which one key's deletion is overdue."""
    folder = scratch / "monitored"
    folder.mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = subprocess.run([sys.executable, MAKE, folder, str(port)], check=True, capture_output=True, text=True)
    command = [sys.executable, "-m", "hsmkms", "--config", folder / "hsmkms.toml", "serve"]
    log = folder / "log"
    with log.open("wb") as errors, subprocess.Popen(command, stderr=errors) as process:
        try:
            endpoint = Endpoint(f"http://127.0.0.1:{port}", "us-east-1", *made.stdout.split())
            served = Served(endpoint=endpoint, process=process, log=log, folder=folder)
            until(lambda: answers(served))
            yield served
        finally:
            process.terminate()
            process.wait(PATIENCE)


def answers(served: Served) -> bool:
    """True once both workers count."""
    try:
        return served.metrics().get("hsmkms_workers") == 2
    except OSError:
        return False


def test_metrics_of_all_workers(served: Served) -> None:
    """Each worker reports the totals of all workers."""
    for _ in range(20):
        assert call(served.endpoint, "GenerateRandom", {"NumberOfBytes": 8})[0] == 200
        assert call(served.endpoint, "DescribeKey", {"KeyId": "alias/nobody"})[0] == 400
    for _ in range(8):  # connections are spread over both workers
        until(lambda: served.metrics()['hsmkms_requests_total{operation="GenerateRandom",outcome="ok"}'] == 20)
    metrics = served.metrics()
    assert metrics['hsmkms_requests_total{operation="DescribeKey",outcome="NotFoundException"}'] == 20
    assert metrics['hsmkms_request_seconds_count{operation="GenerateRandom"}'] == 20
    assert metrics['hsmkms_request_seconds_bucket{le="+Inf",operation="GenerateRandom"}'] == 20
    assert metrics['hsmkms_token_calls_total{call="random",outcome="ok"}'] >= 20
    assert metrics['hsmkms_token_call_seconds_sum{call="random"}'] > 0


def test_counts_survive_renewal(served: Served) -> None:
    """Counters do not decrease when workers are replaced, and workers that ended are not counted as alive."""
    name = 'hsmkms_requests_total{operation="GenerateRandom",outcome="ok"}'
    call(served.endpoint, "GenerateRandom", {"NumberOfBytes": 8})
    until(lambda: name in served.metrics())
    before = served.metrics()[name]
    old = workers(served)
    served.process.send_signal(signal.SIGHUP)
    until(lambda: len(workers(served)) == 2 and not workers(served) & old)
    until(lambda: served.metrics()["hsmkms_workers"] == 2)
    assert served.metrics()[name] >= before


def workers(served: Served) -> set[str]:
    """The processes of the workers."""
    pid = served.process.pid
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_metrics_are_documented(served: Served) -> None:
    """The guide names every metric, and none that is not there."""
    _, _, body = exchange(served.endpoint, raw("GET", "/metrics", {"Host": "x"}))
    there = set(re.findall(r"^# TYPE (hsmkms_\w+?)(?:_total)? \w+$", body.decode(), re.MULTILINE))
    named = set(re.findall(r"`(hsmkms_\w+)`", PAGE.read_text()))
    assert there | SOMETIMES == named


def test_samples_are_of_metrics_that_there_are(served: Served) -> None:
    """Alerts and dashboard name metrics that the server has, with labels and values of labels that these have."""
    _, _, body = exchange(served.endpoint, raw("GET", "/metrics", {"Host": "x"}))
    types = dict(re.findall(r"^# TYPE (hsmkms_\w+) (\w+)$", body.decode(), re.MULTILINE))
    samples = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    there = {f"{name}{ending}" for name, kind in types.items() for ending in samples[kind]} | SOMETIMES
    labels: dict[str, set[str]] = {}
    for name, given in re.findall(r"^(hsmkms_\w+)\{(.*)\} ", body.decode(), re.MULTILINE):
        labels.setdefault(name, {"instance"}).update(re.findall(r'(\w+)="', given))
    rules = [
        rule for group in yaml.safe_load((SAMPLES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
    ]
    board = json.loads((SAMPLES / "grafana.json").read_text())
    expressions = [rule["expr"] for rule in rules]
    expressions += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) > 40
    for expression in expressions:
        for name, given in re.findall(r"(hsmkms_\w+)(?:\{(.*?)\})?", expression):
            assert name in there, expression
            assert set(re.findall(r"(\w+)=?[=!~]", given)) <= labels.get(name, {"instance"}), expression
    assert {rule["labels"]["severity"] for rule in rules} == {"info", "warning", "critical"}
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert all({"summary", "description"} == set(rule["annotations"]) for rule in rules)
    assert {each["id"] for each in board["panels"]} == set(range(1, len(board["panels"]) + 1))


def test_metrics_of_keys(served: Served) -> None:
    """On request so many keys have metrics, those that were used last; how many have none is said."""
    metrics = served.metrics()
    shown = [name for name in metrics if name.startswith("hsmkms_key_")]
    keys = {match[1] for name in shown if (match := re.search('key_id="([^"]*)"', name))}
    assert len(keys) == 1
    assert metrics[f'hsmkms_key_encryptions{{key_id="{keys.pop()}",region="us-east-1"}}'] == 1
    assert metrics["hsmkms_keys_without_metrics"] >= 1


def test_sweeper_runs_once_for_all(served: Served) -> None:
    """What is due when the server starts is done once, by any worker, and the metrics show it."""
    done = 'hsmkms_sweep_steps_total{kind="deletion",outcome="done"}'

    def sweeps() -> float:
        return sum(value for name, value in served.metrics().items() if name.startswith("hsmkms_sweeps_total"))

    until(lambda: done in served.metrics() and sweeps() >= 2)
    metrics = served.metrics()
    assert metrics[done] == 1
    assert abs(metrics["hsmkms_last_sweep_timestamp_seconds"] - time.time()) < 600
    assert metrics["hsmkms_last_sweep_success"] == 1
    until(lambda: served.metrics()["hsmkms_due"] == 0)
    logged = [line["event"] for line in served.lines() if line["event"].startswith("deletion, key")]
    assert len(logged) == 1


def test_a_line_for_each_request(served: Served) -> None:
    """Each request has its line, with who, what, which key, how it ended and how long it took."""
    _, _, made = call(served.endpoint, "CreateKey", {})
    arn, key_id = made["KeyMetadata"]["Arn"], made["KeyMetadata"]["KeyId"]
    _, headers, _ = call(served.endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": "eHh4"})
    _, refused, _ = call(served.endpoint, "Encrypt", {"KeyId": "alias/nobody", "Plaintext": "eHh4"})
    ids = [headers["x-amzn-requestid"], refused["x-amzn-requestid"]]
    until(lambda: all(each in served.log.read_text() for each in ids))
    good, bad = ([line for line in served.lines() if line.get("request_id") == each] for each in ids)
    assert len(good) == len(bad) == 1
    assert good[0]["milliseconds"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", good[0]["timestamp"])
    wanted = {"operation": "Encrypt", "outcome": "ok", "key_id": arn, "region": "us-east-1", "source": "127.0.0.1"}
    assert wanted.items() <= good[0].items()
    assert good[0]["principal"].endswith(":user/alice")
    assert (bad[0]["outcome"], bad[0]["key_id"]) == ("NotFoundException", "alias/nobody")


def test_nothing_secret_is_logged(served: Served) -> None:
    """Plaintexts, blobs, data keys, wrong bodies and secrets are in no line, whatever becomes of the request."""
    endpoint = served.endpoint
    plain = base64.b64encode(SECRET_TEXT).decode()
    _, _, made = call(endpoint, "CreateKey", {})
    key_id = made["KeyMetadata"]["KeyId"]
    _, _, sealed = call(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": plain, "EncryptionContext": {"a": plain}})
    _, _, data_key = call(endpoint, "GenerateDataKey", {"KeyId": key_id, "KeySpec": "AES_256"})
    blob = sealed["CiphertextBlob"]
    for members in (
        {"CiphertextBlob": blob, "EncryptionContext": {"a": plain}},
        {"CiphertextBlob": blob, "EncryptionContext": {"b": plain}},
        {"CiphertextBlob": plain},
        {"CiphertextBlob": 5, "Plaintext": plain},
        f'{{"Plaintext": "{plain}"'.encode(),
    ):
        _, headers, _ = call(endpoint, "Decrypt", members)
    call(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": plain * 200})
    call(endpoint._replace(secret_access_key="x" * 40), "Encrypt", {"KeyId": key_id, "Plaintext": plain})
    until(lambda: headers["x-amzn-requestid"] in served.log.read_text())
    text = served.log.read_text()
    never = [SECRET_TEXT.decode(), plain, blob, data_key["Plaintext"], data_key["CiphertextBlob"]]
    pin = (served.folder / "pin").read_text().strip()
    assert [each for each in (*never, endpoint.secret_access_key, pin) if each in text] == []


class Watched:
    """Stands for a monitored installation: counts the checks, and has a fault on demand."""

    def __init__(self) -> None:
        self.looks = 0
        self.fault: HsmKmsError | None = None
        self.away: Outage | None = None

    def check_token(self) -> None:
        """Check the token."""
        self.looks += 1
        if self.fault is not None:
            raise self.fault

    def check_database(self) -> None:
        """All is well while the database answers."""
        if self.away is not None:
            raise DependencyTimeoutException("the database does not answer")

    def outage(self) -> Outage | None:
        """Since when it does not."""
        return self.away

    def check_disk(self) -> None:
        """All is well."""

    def older_tokens(self) -> list[str]:
        """None."""
        return []

    def drained(self) -> None:
        """It gets requests."""

    def clock_doubt(self) -> str | None:
        """None, for which the database is asked."""
        assert self.away is None


def test_readiness_is_asked_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests come, token and database are checked once a second; a fault is reported with its code."""
    moment = [1000.0]
    monkeypatch.setattr("hsmkms.server.monitoring.health.time.monotonic", lambda: moment[0])
    watched = Watched()
    health = Health(watched)  # type: ignore[arg-type]  # all that it asks
    assert [health.faults() for _ in range(5)] == [{}] * 5
    watched.fault = TokenUnavailableError("the token is away")
    moment[0] += 0.9
    assert (health.faults(), watched.looks) == ({}, 1)
    moment[0] += 0.1
    assert (health.faults(), watched.looks) == ({"token": "DependencyTimeoutException: the token is away"}, 2)


def test_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """While cached keys are used the node stays ready, with a warning; then it is a fault. The figures wait for it."""
    moment = [1000.0]
    monkeypatch.setattr("hsmkms.server.monitoring.health.time.monotonic", lambda: moment[0])
    watched = Watched()
    health = Health(watched)  # type: ignore[arg-type]  # all that it asks
    metrics = Metrics(watched, health, Heartbeat(), ServeSettings())  # type: ignore[arg-type]  # all that it asks
    for is_bridged in (True, False):
        watched.away = Outage("it is away", 12.5, is_bridged)
        moment[0] += 1
        shown = metrics.page(add_up([], 0.0)).decode()
        found = {"database": "it is away"}
        assert (health.faults(), health.warnings) == (({}, found) if is_bridged else (found, {}))
        assert "hsmkms_store_away_seconds 12.5" in shown
        assert f'hsmkms_ready{{part="database"}} {float(is_bridged)}' in shown
        assert "hsmkms_keys" not in shown


# -- the parts --------------------------------------------------------------------------------------------------


def snapshot(written_at: float, last_sweep: float) -> Snapshot:
    """Counts of a worker."""
    tally, sweeps = Tally(), Sweeps()
    tally.note("Encrypt", "ok", BOUNDS[0])
    tally.note("Encrypt", "ok", 1000.0)
    sweeps.note("done", [("deletion", "done")], last_sweep)
    sweeps.note("busy", [], last_sweep + 1)
    use = PoolUse(limit=4, opened=2, lent=1, waiting=1, waits=3)
    alarms = Alarms(audit=written_at > 950, audit_faults=2, altered=frozenset({"key/a", f"key/{last_sweep}"}))
    return Snapshot(
        requests=tally.counts(), token_calls=[], sweeps=sweeps, sessions=use, alarms=alarms, written_at=written_at
    )


def test_add_up() -> None:
    """Counts of ended workers are kept, their sessions are not; the latest sweep is the one that is reported."""
    totals = worker_counts.add_up([snapshot(1000.0, 10.0), snapshot(900.0, 20.0)], 1001.0)
    assert (totals.workers, totals.sessions) == (1, PoolUse(limit=4, opened=2, lent=1, waiting=1, waits=6))
    (requests,) = totals.requests
    assert (requests.classes[0], requests.classes[-1], sum(requests.classes)) == (2, 2, 4)
    assert (totals.sweeps.runs, totals.sweeps.last_at) == ({"done": 2, "busy": 2}, 20.0)
    assert totals.sweeps.steps == {"deletion": {"done": 2}}
    assert totals.alarms == Alarms(audit=True, audit_faults=4, altered=frozenset({"key/a", "key/10.0"}))


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_client_makes_no_line_of_its_own(form: str) -> None:
    """A key id with line breaks stays one line, and a long one is cut."""
    written: list[bytes] = []
    log = RequestLog(form)
    log._write = written.append
    for key_id in ("alias/x\n2026-01-01 info request outcome=ok", "é" * 10_000):
        line = RequestLine(
            request_id="1", principal=None, operation="Encrypt", region=None,
            key_id=key_id, outcome="ok", milliseconds=1.0, source="::1",
        )  # fmt: skip
        log.note(line)
    assert all(b"\n" not in line and len(line) < MAX_TEXT * 2 + 300 for line in written)
    assert b"outcome=ok" in written[0]
