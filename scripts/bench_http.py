"""The endpoint under load, next to OpenBao's transit engine and to the server's own empty answer, in the same run.

wrk sends signed requests of 64 bytes on 64 connections; the contenders take turns, and medians of the rounds are
printed as the table that the guide has. The client shares the machine's cores with the servers. Then a steady rate of
requests (open_loop.py), and with --requests the memory of the workers over so many of them.
"""

import argparse
import base64
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from open_loop import latencies

from hsmkms.testing import Endpoint, read_endpoint

CONNECTIONS = 64
ROUNDS = 3
STEADY_RATE = 1800
BAO_PORT = 8219
PLAINTEXT = base64.b64encode(bytes(64)).decode()
TRANSIT = "OpenBao transit encrypt (software key, no signature)"
EMPTY = "hsmkms empty answer (/healthz)"


class Server(NamedTuple):
    """A development server: where it answers, its process, and how long it took until then."""

    endpoint: Endpoint
    pid: int
    seconds: float

    def memory_mib(self) -> list[int]:
        """Resident memory of the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        output = (Path(f"/proc/{each}/status").read_text() for each in children)
        return [int(re.findall(r"VmRSS:\s+(\d+)", each)[0]) // 1024 for each in output]


class Request(NamedTuple):
    """A request as wrk sends it. A signature is good for five minutes, so requests are made shortly before."""

    url: str
    headers: dict[str, str]
    body: str

    def script(self, file: Path) -> Path:
        """The request as a script for wrk."""
        lines = [f"wrk.method = {'POST' if self.body else 'GET'!r}", f"wrk.body = [[{self.body}]]"]
        lines += [f"wrk.headers[{name!r}] = {value!r}" for name, value in self.headers.items()]
        file.write_text("\n".join(lines))
        return file

    def raw(self) -> bytes:
        """The request as bytes."""
        lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join((*lines, f"Content-Length: {len(self.body)}", "", self.body)).encode()


def signed(endpoint: Endpoint, operation: str, members: dict[str, str]) -> Request:
    """A signed request."""
    body = json.dumps(members)
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"TrentService.{operation}"}
    request = AWSRequest("POST", f"{endpoint.url}/", data=body, headers=headers | {"Host": endpoint.url[7:]})
    SigV4Auth(Credentials(endpoint.access_key_id, endpoint.secret_access_key), "kms", endpoint.region).add_auth(request)
    return Request(f"{endpoint.url}/", dict(request.headers.items()), body)


def load(request: Request, folder: str, seconds: int, connections: int = CONNECTIONS) -> tuple[float, float, float]:
    """Requests a second, and the latencies p50 and p99 in milliseconds."""
    lua = request.script(Path(folder) / "request.lua")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(lua), "--latency", request.url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output:
        raise SystemExit(f"{request.url} answered errors:\n{output}")
    (rate,) = re.findall(r"Requests/sec: +([0-9.]+)", output)
    return float(rate), _milliseconds(output, "50%"), _milliseconds(output, "99%")


def _milliseconds(output: str, share: str) -> float:
    ((number, unit),) = re.findall(rf"{share} +([0-9.]+)(us|ms|s)", output)
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


@contextmanager
def our_server(workers: int, folder: str, *, log: bool) -> Iterator[Server]:
    """`hsmkms serve --dev`; with a log it writes a line for each request into a file."""
    command = [sys.executable, "-m", "hsmkms", "serve", "--dev", "--workers", str(workers)]
    command += ["--log-requests"] if log else []
    begun = time.perf_counter()
    with (
        (Path(folder) / "log").open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            endpoint = read_endpoint(process)
            yield Server(endpoint, process.pid, time.perf_counter() - begun)
        finally:
            process.terminate()


@contextmanager
def bao_server(program: Path, port: int, audit_file: Path | None = None) -> Iterator[str]:
    """OpenBao in its development mode, with a transit key, and its file audit device if a file is named; its URL."""
    address = f"127.0.0.1:{port}"
    command = [str(program), "server", "-dev", "-dev-root-token-id=root", f"-dev-listen-address={address}"]
    if audit_file is not None:
        config = audit_file.with_suffix(".hcl")
        config.write_text(f'audit "file" "to-file" {{ options = {{ file_path = "{audit_file}" }} }}')
        command.append(f"-config={config}")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for path, body in (("sys/mounts/transit", {"type": "transit"}), ("transit/keys/bench", {})):
                _post(f"http://{address}/v1/{path}", body)
            yield f"http://{address}"
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


class Work:
    """The requests to one server, on a key of its own."""

    def __init__(self, server: Server) -> None:
        self._endpoint = server.endpoint
        kms = server.endpoint.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        sealed = base64.b64encode(kms.encrypt(KeyId=key_id, Plaintext=bytes(64))["CiphertextBlob"]).decode()
        self._members = {
            "Encrypt": {"KeyId": key_id, "Plaintext": PLAINTEXT},
            "Decrypt": {"CiphertextBlob": sealed},
            "GenerateDataKey": {"KeyId": key_id, "KeySpec": "AES_256"},
        }

    def request(self, operation: str) -> Request:
        """A request that is signed now."""
        return signed(self._endpoint, operation, self._members[operation])


def main() -> None:
    """Run the rounds and print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--requests", type=int, default=0, help="watch the memory over so many requests as well")
    options.add_argument("--bao", type=Path, required=True)
    chosen = options.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        (Path(folder) / "logged").mkdir()
        quiet = stack.enter_context(our_server(chosen.workers, folder, log=False))
        logged = stack.enter_context(our_server(chosen.workers, f"{folder}/logged", log=True))
        bao = stack.enter_context(bao_server(chosen.bao, BAO_PORT))
        work, logged_work = Work(quiet), Work(logged)
        transit = Request(
            f"{bao}/v1/transit/encrypt/bench", {"X-Vault-Token": "root"}, json.dumps({"plaintext": PLAINTEXT})
        )
        results: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(chosen.rounds):
            for name, request in (
                ("hsmkms Encrypt", work.request("Encrypt")),
                ("hsmkms Encrypt, a log line for each", logged_work.request("Encrypt")),
                ("hsmkms Decrypt", work.request("Decrypt")),
                ("hsmkms GenerateDataKey", work.request("GenerateDataKey")),
                (EMPTY, Request(f"{quiet.endpoint.url}/healthz", {}, "")),
                (TRANSIT, transit),
            ):
                results.setdefault(name, []).append(load(request, folder, chosen.seconds))
        print_table(results, chosen.rounds, chosen.seconds)
        print_steady(logged_work, chosen.seconds * 2)
        print(f"Memory of the workers: {_mib(quiet.memory_mib())}; with the log {_mib(logged.memory_mib())}.")
        print(f"`serve --dev --workers {chosen.workers}` answered after {quiet.seconds:.1f} s.")
        if chosen.requests:
            print_memory(quiet, work, folder, chosen.requests)


def print_table(results: dict[str, list[tuple[float, float, float]]], rounds: int, seconds: int) -> None:
    """Medians, and ratios to OpenBao and to the empty answer."""
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    cores = len(os.sched_getaffinity(0))
    print(
        f"`scripts/bench http` on {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {cores} cores "
        f"shared with wrk, {CONNECTIONS} connections, medians of {rounds} rounds of {seconds} s in which the "
        "contenders took turns.\n"
    )
    print("| 64 bytes | requests/s | p50 ms | p99 ms | of OpenBao | of the empty answer |\n|---|---|---|---|---|---|")
    for name, (rate, p50, p99) in medians.items():
        ratios = (rate / medians[each][0] for each in (TRANSIT, EMPTY))
        print(f"| {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {' | '.join(f'{each:.2f}' for each in ratios)} |")


def print_steady(work: Work, seconds: int) -> None:
    """Latencies at a steady rate."""
    request = work.request("Encrypt")
    p50, p99, longest = latencies(
        request.url, request.raw(), rate=STEADY_RATE, seconds=seconds, connections=CONNECTIONS
    )
    print(
        f"\n{STEADY_RATE:,} Encrypt a second for {seconds} s, with the log, counted from when each was due: "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms."
    )


def print_memory(server: Server, work: Work, folder: str, requests: int) -> None:
    """Resident memory of the workers while so many requests are answered."""
    done, seen = 0.0, [server.memory_mib()]
    while done < requests:
        rate, _, _ = load(work.request("Encrypt"), folder, 10)
        done += rate * 10
        seen.append(server.memory_mib())
    print(f"Memory over {done:,.0f} requests, each 10 s: {'; '.join(_mib(each) for each in seen)}.")


def _mib(sizes: list[int]) -> str:
    return ", ".join(f"{each} MiB" for each in sizes)


if __name__ == "__main__":
    main()
