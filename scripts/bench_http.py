"""The endpoint under load, next to OpenBao's transit engine and to the server's own empty answer, in the same run.

wrk sends signed requests of 64 bytes on 64 connections; the contenders take turns, and medians of the rounds are
printed. The client shares the machine's cores with the servers.
"""

import argparse
import base64
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hsmkms.testing import Endpoint, read_endpoint

CONNECTIONS = 64
ROUNDS = 3
BAO = "http://127.0.0.1:8219"
PLAINTEXT = base64.b64encode(bytes(64)).decode()


def script(file: Path, headers: dict[str, str], body: str) -> Path:
    """A request as a script for wrk."""
    lines = [f"wrk.method = {'POST' if body else 'GET'!r}", f"wrk.body = [[{body}]]"]
    lines += [f"wrk.headers[{name!r}] = {value!r}" for name, value in headers.items()]
    file.write_text("\n".join(lines))
    return file


def signed(endpoint: Endpoint, operation: str, members: dict[str, str]) -> tuple[dict[str, str], str]:
    """Headers and body of a signed request; it is good for five minutes."""
    body = json.dumps(members)
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"TrentService.{operation}"}
    request = AWSRequest("POST", f"{endpoint.url}/", data=body, headers=headers | {"Host": endpoint.url[7:]})
    SigV4Auth(Credentials(endpoint.access_key_id, endpoint.secret_access_key), "kms", endpoint.region).add_auth(request)
    return dict(request.headers.items()), body


def load(url: str, lua: Path, seconds: int) -> tuple[float, float, float]:
    """Requests a second, and the latencies p50 and p99 in milliseconds."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(lua), "--latency", url]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in told:
        raise SystemExit(f"{url} answered errors:\n{told}")
    (rate,) = re.findall(r"Requests/sec: +([0-9.]+)", told)
    return float(rate), _milliseconds(told, "50%"), _milliseconds(told, "99%")


def _milliseconds(told: str, share: str) -> float:
    ((number, unit),) = re.findall(rf"{share} +([0-9.]+)(us|ms|s)", told)
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


@contextmanager
def our_server(workers: int) -> Iterator[tuple[Endpoint, int]]:
    """`hsmkms serve --dev`, and its process id."""
    command = [sys.executable, "-m", "hsmkms", "serve", "--dev", "--workers", str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield read_endpoint(process), process.pid
        finally:
            process.terminate()


@contextmanager
def bao_server(program: Path) -> Iterator[None]:
    """OpenBao in its development mode, with a transit key."""
    command = [str(program), "server", "-dev", "-dev-root-token-id=root", f"-dev-listen-address={BAO[7:]}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for path, body in (("sys/mounts/transit", {"type": "transit"}), ("transit/keys/bench", {})):
                _post(f"{BAO}/v1/{path}", body)
            yield
        finally:
            process.terminate()


def _post(url: str, body: dict[str, str]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"X-Vault-Token": "root"}, method="POST")  # noqa: S310 - our own
    for _ in range(100):
        try:
            urllib.request.urlopen(request, timeout=5).close()  # noqa: S310 - see above
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{url} does not answer")


def memory_mib(process_id: int) -> list[int]:
    """Resident memory of the workers."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return [
        int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{each}/status").read_text())[0]) // 1024 for each in children
    ]


def main() -> None:
    """Run the rounds and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--bao", type=Path, required=True)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, our_server(chosen.workers) as (endpoint, pid), bao_server(chosen.bao):
        kms = endpoint.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        sealed = base64.b64encode(kms.encrypt(KeyId=key_id, Plaintext=bytes(64))["CiphertextBlob"]).decode()
        requests = {
            "Encrypt": {"KeyId": key_id, "Plaintext": PLAINTEXT},
            "Decrypt": {"CiphertextBlob": sealed},
            "GenerateDataKey": {"KeyId": key_id, "KeySpec": "AES_256"},
        }
        results: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(ROUNDS):
            for name, members in requests.items():
                lua = script(Path(folder) / name, *signed(endpoint, name, members))
                results.setdefault(f"hsmkms {name}", []).append(load(f"{endpoint.url}/", lua, chosen.seconds))
            empty = script(Path(folder) / "empty", {}, "")
            results.setdefault("hsmkms empty answer (/healthz)", []).append(
                load(f"{endpoint.url}/healthz", empty, chosen.seconds)
            )
            transit = script(Path(folder) / "bao", {"X-Vault-Token": "root"}, json.dumps({"plaintext": PLAINTEXT}))
            results.setdefault("OpenBao transit encrypt", []).append(
                load(f"{BAO}/v1/transit/encrypt/bench", transit, chosen.seconds)
            )
        print_table(results, memory_mib(pid))


def print_table(results: dict[str, list[tuple[float, float, float]]], memory: list[int]) -> None:
    """Medians, and ratios to OpenBao."""
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    base = medians["OpenBao transit encrypt"][0]
    print(f"Python {platform.python_version()}; workers' memory: {', '.join(f'{each} MiB' for each in memory)}\n")
    print("| | requests/s | p50 ms | p99 ms | of OpenBao |\n|---|---|---|---|---|")
    for name, (rate, p50, p99) in medians.items():
        print(f"| {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {rate / base:.2f} |")


if __name__ == "__main__":
    main()
