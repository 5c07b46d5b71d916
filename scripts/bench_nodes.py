"""Nodes on PostgreSQL: what the database costs, what more nodes give, and how soon a change or a failover is over.

A primary with a synchronous standby and three nodes run on this machine, with one SoftHSM token; beside them an
installation in files, which takes turns with one node. Everything that is compared is measured in the same run.
"""

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import bench_http
import boto3
from bench_http import PLAINTEXT, load, signed
from bench_latency import DELAY_MICROSECONDS, order, slow_module
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from cli_site import ACCOUNT, REGION, Site
from node_sites import softhsm_module
from nodes import Installation
from postgresql_pair import Pair
from served import Served, credentials, set_in, start
from waiting import until

from hsmkms.testing import Endpoint

NODES = 3
SESSIONS = 4
SLOW_CLIENTS = 32
CREATIONS = 100
CHANGES = 100
FAILOVERS = 5
AWAY = (ClientError, HTTPClientError)


class Running(NamedTuple):
    """A server and its endpoint, for the root of the account."""

    server: Served
    endpoint: Endpoint

    def client(self) -> Any:  # noqa: ANN401 - a client of botocore
        """A client that repeats nothing."""
        endpoint = self.endpoint
        return boto3.client(
            "kms",
            endpoint_url=endpoint.url,
            region_name=endpoint.region,
            aws_access_key_id=endpoint.access_key_id,
            aws_secret_access_key=endpoint.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}),
        )

    def signed(self, key_id: str) -> bench_http.Request:
        """An Encrypt of 64 bytes."""
        return signed(self.endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": PLAINTEXT})


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement of a rate (4)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which the contenders take turns (5)")
    chosen = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(
        f"`scripts/bench nodes` on {datetime.now(UTC):%Y-%m-%d}: {cores} cores, Python {platform.python_version()}; "
        f"load {os.getloadavg()[0]:.1f}. Medians of {chosen.rounds} rounds of {chosen.seconds} s, and their range.\n"
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmkms-bench-")))
        pair = stack.enter_context(running_pair(folder / "pg"))
        (folder / "nodes").mkdir()
        installation = Installation(folder / "nodes", pair, NODES)
        files = stack.enter_context(in_files(folder / "files"))
        nodes = [stack.enter_context(node_of(installation, number)) for number in range(NODES)]
        print_encrypt(nodes[0], files, chosen.rounds, chosen.seconds)
        print_creations(nodes[0], files)
        print_changes(nodes[0], nodes[1])
        print_failovers(pair, nodes[0])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hsmkms-bench-")))
        print_slow(stack, folder, chosen.rounds, chosen.seconds)


# -- what runs -------------------------------------------------------------------------------------------------------


@contextmanager
def running_pair(folder: Path) -> Iterator[Pair]:
    """A primary and its standby, which write to the disk as a server of an operator does."""
    folder.parent.chmod(0o711)
    folder.mkdir()
    pair = Pair(folder, durable=True)
    try:
        yield pair
    finally:
        pair.stop()


@contextmanager
def serving(site: Site, key: tuple[str, str], workers: int, **environment: str) -> Iterator[Running]:
    """A server that is ready, and is stopped at the end."""
    server = start(site, "--workers", workers, **environment)
    try:
        server.wait_until_ready()
        until(lambda: server.page("/readyz")[0] == HTTPStatus.OK)
        yield Running(server, Endpoint(f"http://127.0.0.1:{server.port}", REGION, *key))
    finally:
        server.stop()


def node_of(installation: Installation, number: int, workers: int = 2) -> Any:  # noqa: ANN401 - a context manager
    """A node's server, without quotas."""
    site = installation.nodes[number].site
    without_quota(site)
    return serving(site, installation.access_key, workers)


@contextmanager
def in_files(folder: Path) -> Iterator[Running]:
    """An installation whose database is in files, which serves."""
    folder.mkdir()
    site = Site(folder=folder)
    where = ("--data-dir", site.data, "--account-id", ACCOUNT, "--region", REGION)
    made = site.run("init", "--create-softhsm-token", *where)
    if made.status:
        raise SystemExit(made.stderr)
    set_in(site, "log_requests = false")
    without_quota(site)
    (key,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site, (key["access_key_id"], key["secret_access_key"]), 2) as running:
        yield running


def without_quota(site: Site) -> None:
    """Let clients create as many keys as they like."""
    set_in(site, "CreateKey = 0", section="serve.quotas")


# -- what is measured ------------------------------------------------------------------------------------------------


def print_encrypt(node: Running, files: Running, rounds: int, seconds: int) -> None:
    """Encrypt over HTTP on one node beside an installation in files."""
    contenders = {"PostgreSQL": node, "SQLite": files}
    keys = {name: each.client().create_key()["KeyMetadata"]["KeyId"] for name, each in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        for warm in (True, *[False] * rounds):
            for name, each in contenders.items():
                rate, _, _ = load(each.signed(keys[name]), folder, 1 if warm else seconds)
                rates[name] += [] if warm else [rate]
    print("| Encrypt over HTTP, one node, 2 workers, 64 connections | requests/s | of SQLite |\n|---|---|---|")
    ratios = [one / other for one, other in zip(rates["PostgreSQL"], rates["SQLite"], strict=True)]
    print(f"| PostgreSQL | {spread(rates['PostgreSQL'])} | {spread(ratios, '.2f')} |")
    print(f"| SQLite | {spread(rates['SQLite'])} | 1 |\n", flush=True)


def print_creations(node: Running, files: Running) -> None:
    """CreateKey of one client."""
    print("| CreateKey, one client | p50 ms | p99 ms | longest ms |\n|---|---|---|---|")
    took: dict[str, list[float]] = {"PostgreSQL with a synchronous standby": [], "SQLite": []}
    clients = [each.client() for each in (node, files)]
    for _ in range(CREATIONS):
        for times, client in zip(took.values(), clients, strict=True):
            times.append(milliseconds(client.create_key))
    for name, times in took.items():
        print(f"| {name} | {percentiles(times)} |")
    print(flush=True)


def print_changes(one: Running, other: Running) -> None:
    """Time from the answer to DisableKey by one node to the first refusal by another one."""
    changing, using = one.client(), other.client()
    key_id = changing.create_key()["KeyMetadata"]["KeyId"]
    took = []
    for _ in range(CHANGES):
        until(lambda: encrypts(using, key_id))
        changing.disable_key(KeyId=key_id)
        took.append(milliseconds(lambda: until_refused(using, key_id)))
        changing.enable_key(KeyId=key_id)
    print("| Of 2 nodes | p50 ms | p99 ms | longest ms |\n|---|---|---|---|")
    print(f"| a key disabled by one is refused by the other after | {percentiles(took)} |\n", flush=True)


def print_failovers(pair: Pair, node: Running) -> None:
    """Time from the death of the primary, whose standby is promoted at once, to the first success of CreateKey."""
    client, took = node.client(), []
    for _ in range(FAILOVERS):
        client.create_key()
        promoting = threading.Thread(target=pair.promote)
        began = time.perf_counter()
        promoting.start()
        promoting.join()
        promoted = time.perf_counter()
        until(lambda: creates(client))
        took.append((promoted - began, time.perf_counter() - began))
        pair.follow()
    print("| The primary is killed, its standby promoted at once | s, median | range |\n|---|---|---|")
    for name, times in zip(
        ("the standby has taken over", "the first CreateKey succeeds"), zip(*took, strict=True), strict=True
    ):
        print(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f} to {max(times):.2f} |")
    print(flush=True)


def print_slow(stack: ExitStack, folder: Path, rounds: int, seconds: int) -> None:
    """A token that takes 2 ms for a call, and four sessions a node: one node, and all at once."""
    pair = stack.enter_context(running_pair(folder / "pg"))
    (folder / "nodes").mkdir()
    installation = Installation(folder / "nodes", pair, NODES)
    module, shim = slow_module(folder, Path(softhsm_module(installation.first)))
    for node in installation.nodes:
        behind(node.site, module, shim)
    nodes = [stack.enter_context(node_of(installation, number, 1)) for number in range(NODES)]
    key_id = nodes[0].client().create_key()["KeyMetadata"]["KeyId"]
    order(folder, f"fault * * delay {DELAY_MICROSECONDS}")
    rates: dict[int, list[float]] = {1: [], NODES: []}
    for warm in (True, *[False] * rounds):
        measure = partial(slow_rate, key_id=key_id, seconds=1 if warm else seconds)
        for count, measured in rates.items():
            with ThreadPoolExecutor(count) as pool:
                rate = sum(pool.map(measure, nodes[:count]))
            measured.extend([] if warm else [rate])
    order(folder)
    ratios = [all_of_them / one for one, all_of_them in zip(rates[1], rates[NODES], strict=True)]
    print(
        f"| Encrypt, {DELAY_MICROSECONDS / 1000:.0f} ms for each call to the token, {SESSIONS} sessions a node | "
        "requests/s | of one node |\n|---|---|---|"
    )
    print(f"| 1 node | {spread(rates[1])} | 1 |")
    print(f"| {NODES} nodes | {spread(rates[NODES])} | {spread(ratios, '.2f')} |")


def slow_rate(node: Running, key_id: str, seconds: int) -> float:
    """Requests a second of one node."""
    with tempfile.TemporaryDirectory() as folder:
        return load(node.signed(key_id), folder, seconds, connections=SLOW_CLIENTS)[0]


def behind(site: Site, module: Path, shim: dict[str, str]) -> None:
    """Put the slow module before a node's token, with few sessions."""
    text = site.config.read_text()
    (line,) = (each for each in text.splitlines() if each.startswith("module = "))
    site.config.write_text(text.replace(line, f'module = "{module}"\nmax_sessions = {SESSIONS}', 1))
    set_in(site, *(f'{name} = "{value}"' for name, value in shim.items()), section="token.environment")


def encrypts(client: Any, key_id: str) -> bool:  # noqa: ANN401 - a client of botocore
    """Whether a key is used."""
    try:
        client.encrypt(KeyId=key_id, Plaintext=b"hello")
    except client.exceptions.DisabledException:
        return False
    return True


def until_refused(client: Any, key_id: str) -> None:  # noqa: ANN401 - a client of botocore
    """Encrypt until it is refused."""
    while encrypts(client, key_id):
        pass


def creates(client: Any) -> bool:  # noqa: ANN401 - a client of botocore
    """Whether a key can be created."""
    try:
        client.create_key()
    except AWAY:
        return False
    return True


def milliseconds(act: Callable[[], object]) -> float:
    """How long an act takes."""
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def percentiles(times: Sequence[float]) -> str:
    """The cells of p50, p99 and the longest."""
    ordered = sorted(times)
    return f"{statistics.median(ordered):.1f} | {ordered[len(ordered) * 99 // 100]:.1f} | {ordered[-1]:.1f}"


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """The median, and the least and the greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
