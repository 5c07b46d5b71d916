"""Encrypt over HTTP with everything on, next to OpenBao with and without its file audit device, in one run.

Ours has signatures, a user with a policy and grants, and the audit log on `commit`; its files are on a disk (the
current folder) in one server and in memory in another one. OpenBao signs nothing and keeps its keys in memory. All take
turns in each round, on 16 and on 64 connections; a ratio is that of two contenders of the same round. No server logs
requests.

The floor is the rate at which the same cores could answer if they did nothing but the parts that no design can leave
out: the empty answer of our server, measured in the run, and the parts below.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from bench_audit import fdatasync_milliseconds
from bench_costs import CONTENDERS, free_port, installed, prepared, serving
from bench_durability import MEMORY
from bench_http import PLAINTEXT, Request, bao_server, load

CONNECTIONS = (16, 64)
OURS = "hsmkms Encrypt, files {place}"
BAO = "OpenBao transit encrypt"
AUDITED = "OpenBao, file audit device {place}"
ON_DISK, IN_MEMORY = "on a disk", "in memory"
EMPTY = "hsmkms empty answer (/healthz)"
FLOOR_PARTS = {
    "two calls to SoftHSM": 15.0,
    "two SHA-256 and an HMAC with a cached key": 4.0,
    "JSON and base64": 3.0,
    "a record of the audit log, in a batch": 5.0,
}
"""Microseconds of a processor for each part, measured alone on 2026-11-30."""

Rates = dict[str, list[float]]


def start_all(stack: ExitStack, bao: Path, workers: int, disk: Path, memory: Path) -> dict[str, Request]:
    """Start every server; a request to each."""
    requests = {}
    everything_on = CONTENDERS[-1]
    for place, folder in ((ON_DISK, disk), (IN_MEMORY, memory)):
        port, url_of = free_port(), "http://127.0.0.1:{}".format
        environment = installed(folder, everything_on)
        requests[OURS.format(place=place)] = prepared(environment, everything_on, url_of(port))
        stack.enter_context(serving(environment, port, workers))
        requests[EMPTY] = Request(f"{url_of(port)}/healthz", {}, "")
    body = json.dumps({"plaintext": PLAINTEXT})
    for name, file in (
        (BAO, None),
        (AUDITED.format(place=ON_DISK), disk / "bao-audit.log"),
        (AUDITED.format(place=IN_MEMORY), memory / "bao-audit.log"),
    ):
        url = stack.enter_context(bao_server(bao, free_port(), file))
        requests[name] = Request(f"{url}/v1/transit/encrypt/bench", {"X-Vault-Token": "root"}, body)
    return requests


def print_table(connections: int, rates: Rates, tails: Rates) -> None:
    """Print medians, each with the least and the most of the rounds."""
    parts = sum(FLOOR_PARTS.values()) / 1e6
    cores = len(os.sched_getaffinity(0))
    floors = [cores / (cores / empty + parts) for empty in rates[EMPTY]]
    print(f"\n| {connections} connections | requests/s | p99 ms | of OpenBao | with its audit file | of the floor |")
    print("|---|---|---|---|---|---|")
    for name, own in rates.items():
        place = IN_MEMORY if name.endswith(IN_MEMORY) else ON_DISK
        others = rates[BAO], rates[AUDITED.format(place=place)], floors
        ratios = ([ours / theirs for ours, theirs in zip(own, each, strict=True)] for each in others)
        cells = [_spread(own, ",.0f"), _spread(tails[name], ".1f"), *(_spread(each, ".2f") for each in ratios)]
        print(f"| {name} | {' | '.join(cells)} |")


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Run the rounds and print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--bao", type=Path, required=True)
    chosen = options.parse_args()
    rates: dict[int, Rates] = {each: {} for each in CONNECTIONS}
    tails: dict[int, Rates] = {each: {} for each in CONNECTIONS}
    with ExitStack() as stack:
        disk, memory = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".hsmkms-bench-", dir=each)))
            for each in (Path.cwd(), MEMORY)
        )
        milliseconds, before = fdatasync_milliseconds(disk), os.getloadavg()[0]
        requests = start_all(stack, chosen.bao, chosen.workers, disk, memory)
        for _ in range(chosen.rounds):
            for connections in CONNECTIONS:
                for name, request in requests.items():
                    rate, _, p99 = load(request, str(memory), chosen.seconds, connections)
                    rates[connections].setdefault(name, []).append(rate)
                    tails[connections].setdefault(name, []).append(p99)
    print(
        f"`scripts/bench peers` on {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, "
        f"{len(os.sched_getaffinity(0))} cores shared with wrk, {chosen.rounds} rounds of {chosen.seconds} s in which "
        f"the contenders took turns: medians, and the least and the most; an fdatasync takes {milliseconds:.2f} ms on "
        f"the disk; load before: {before:.1f}."
    )
    for connections in CONNECTIONS:
        print_table(connections, rates[connections], tails[connections])


if __name__ == "__main__":
    main()
