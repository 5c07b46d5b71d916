"""What policies, grants and the audit log cost an Encrypt over HTTP, next to OpenBao with and without its audit file.

No server writes a line of its log for a request: OpenBao has none, and ours is measured by `scripts/bench http`.

Servers that differ in one thing each stand side by side and take turns; medians of the rounds are printed. Folders,
also that of OpenBao's audit file, are made in the current one: in /tmp there may be memory instead of a disk.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench_audit import fdatasync_milliseconds
from bench_http import CONNECTIONS, PLAINTEXT, Request, bao_server, load, signed

from hsmkms.testing import Endpoint

HSMKMS = Path(sys.executable).parent / "hsmkms"
REGION = "eu-central-1"
ACCOUNT = "111122223333"
GRANTS = 10
BARE = "hsmkms, audit off, the account's root"
PLAIN_BAO = "OpenBao transit encrypt"
AUDITED_BAO = "OpenBao transit encrypt, its file audit device on"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Deny",
            "Action": "kms:*",
            "Resource": "*",
            "Condition": {"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}},
        },
        {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": f"arn:aws:kms:*:{ACCOUNT}:key/*"},
    ],
}


class Contender(NamedTuple):
    """A server of ours: its name in the table, how the audit log waits, and who asks."""

    name: str
    durability: str
    user: bool


CONTENDERS = (
    Contender(BARE, "off", user=False),
    Contender(f"the same, a user with a policy and {GRANTS} grants", "off", user=True),
    Contender("that, and audit `interval`", "interval", user=True),
    Contender("that, and audit `commit` (the default)", "commit", user=True),
)


def installed(folder: Path, contender: Contender) -> dict[str, str]:
    """Make an installation; its environment."""
    data = folder / "data"
    _run(["init", "--data-dir", str(data), "--create-softhsm-token", "--account-id", ACCOUNT, "--region", REGION], {})
    config = data / "hsmkms.toml"
    text = config.read_text().replace('# durability = "commit"', f'durability = "{contender.durability}"')
    config.write_text(text.replace("# log_requests = true", "log_requests = false"))
    return {"HSMKMS_CONFIG": str(config)}


def _run(arguments: list[str], environment: dict[str, str]) -> dict[str, dict[str, str]]:
    command = [str(HSMKMS), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout) if done.stdout.strip() else {}


def prepared(environment: dict[str, str], contender: Contender, url: str) -> Request:
    """A key, a principal who may use it, and a request of theirs."""
    key_id = _run(["create-key"], environment)["KeyMetadata"]["KeyId"]
    owner = ["--user-name", "alice"] if contender.user else []
    if contender.user:
        _run(["create-user", *owner], environment)
        document = json.dumps(POLICY)
        _run(["put-user-policy", *owner, "--policy-name", "use", "--policy-document", document], environment)
        principal = f"arn:aws:iam::{ACCOUNT}:user/alice"
        grant = ["create-grant", "--key-id", key_id, "--grantee-principal", principal, "--operations", "DescribeKey"]
        for number in range(GRANTS):
            _run([*grant, "--name", f"grant-{number}"], environment)
    made = _run(["create-access-key", *(owner or ["--root"])], environment)["AccessKey"]
    endpoint = Endpoint(url, REGION, made["AccessKeyId"], made["SecretAccessKey"])
    return signed(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": PLAINTEXT})


@contextmanager
def serving(environment: dict[str, str], port: int, workers: int) -> Iterator[None]:
    """A server of that installation."""
    command = [str(HSMKMS), "serve", "--port", str(port), "--workers", str(workers)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | environment) as process:
        try:
            _wait_for(port)
            yield
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nobody listens on port {port}")


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Run the rounds and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--bao", type=Path, required=True)
    chosen = options.parse_args()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".hsmkms-bench-", dir=Path.cwd())))
        disk = fdatasync_milliseconds(place)
        requests: dict[str, Request] = {}
        for number, contender in enumerate(CONTENDERS):
            folder, port = place / str(number), free_port()
            folder.mkdir()
            environment = installed(folder, contender)
            requests[contender.name] = prepared(environment, contender, f"http://127.0.0.1:{port}")
            stack.enter_context(serving(environment, port, chosen.workers))
        for name, audit_file in ((PLAIN_BAO, None), (AUDITED_BAO, place / "bao-audit.log")):
            url = stack.enter_context(bao_server(chosen.bao, free_port(), audit_file))
            body = json.dumps({"plaintext": PLAINTEXT})
            requests[name] = Request(f"{url}/v1/transit/encrypt/bench", {"X-Vault-Token": "root"}, body)
        rates: dict[str, list[float]] = {}
        for _ in range(chosen.rounds):
            for name, request in requests.items():
                rates.setdefault(name, []).append(load(request, str(place), chosen.seconds)[0])
    print_table({name: statistics.median(each) for name, each in rates.items()}, disk, chosen.rounds, chosen.seconds)


def print_table(rates: dict[str, float], disk: float, rounds: int, seconds: int) -> None:
    """Rates, what each adds to a request in the time of one core of two, and ratios to OpenBao with its audit file."""
    print(
        f"`scripts/bench costs` on {datetime.now(UTC):%Y-%m-%d}: {len(os.sched_getaffinity(0))} cores shared with wrk, "
        f"{CONNECTIONS} connections, Encrypt of 64 bytes, medians of {rounds} rounds of {seconds} s in which the "
        f"contenders took turns; an fdatasync takes {disk:.2f} ms on this disk.\n"
    )
    print("| | requests/s | µs a request | of the first | of OpenBao with its audit file |\n|---|---|---|---|---|")
    for name, rate in rates.items():
        ratios = f"{rate / rates[BARE]:.2f} | {rate / rates[AUDITED_BAO]:.2f}"
        print(f"| {name} | {rate:,.0f} | {1e6 / rate:.0f} | {ratios} |")


if __name__ == "__main__":
    main()
