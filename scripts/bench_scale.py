"""Many keys: what start, memory, requests and the operator's looks cost with few and with many of them.

Backing keys are generated on the token, as everybody does it; the rest of the keys wait for imported material, so that
they have none. The folder is in memory where that is possible: SoftHSM syncs a file for every object.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path

import msgspec
from bench import PLAINTEXT, make_installation
from bench_costs import HSMKMS, free_port
from postgresql_cluster import name_of, running_cluster
from sqlalchemy import Insert, Table, Text, bindparam, cast, insert, select

from hsmkms import Kms
from hsmkms.config.settings import AuditSettings, Settings, StoreSettings
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.enums import Origin
from hsmkms.model.keys import CreateKeyRequest, ListKeysRequest
from hsmkms.store import schema
from hsmkms.wiring import core as wiring

FEW = 10
BATCH = 2000
REPEATS = 300


def main() -> None:
    """Parse the arguments, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000, help="KMS keys in the store")
    parser.add_argument("--objects", type=int, default=20_000, help="of them with a backing key on the token")
    parser.add_argument("--postgresql", action="store_true", help="also with a PostgreSQL server of its own, in memory")
    chosen = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    place = memory if memory.is_dir() else None
    columns: dict[str, dict[str, str]] = {}
    with ExitStack() as stack:
        stores = {"SQLite": StoreSettings()}
        if chosen.postgresql:
            cluster = stack.enter_context(running_cluster())
            stores["PostgreSQL"] = StoreSettings(url=cluster.url(cluster.create()))
        for engine, store in stores.items():
            settings = make_installation(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place))), store)
            columns[f"{engine}, {FEW} keys"] = measured(settings, FEW)
            began = time.perf_counter()
            fill(settings, chosen.keys, chosen.objects)
            if store.url is not None:
                with cluster.connect(name_of(store.url)) as admin:
                    admin.execute("VACUUM ANALYZE")  # the server of the tests does not do so by itself
            filled = {"the keys were made in": f"{time.perf_counter() - began:.0f} s"}
            columns[f"{engine}, {chosen.keys:,} keys"] = measured(settings, chosen.objects - FEW) | filled
    cores = len(os.sched_getaffinity(0))
    print(
        f"`scripts/bench scale` on {datetime.now(UTC):%Y-%m-%d}: {cores} cores, {chosen.keys:,} KMS keys, of which "
        f"{chosen.objects:,} have a backing key on a SoftHSM token in memory.\n"
    )
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in list(columns.values())[-1]:
        print(f"| {name} | {' | '.join(each.get(name, '') for each in columns.values())} |")


def fill(settings: Settings, keys: int, objects: int) -> None:
    """Make the keys: with a backing key by CreateKey, the others as copies of the rows of one."""
    with opened(settings) as kms:
        for _ in range(objects - FEW):
            kms.create_key(CreateKeyRequest())
        model = kms.create_key(CreateKeyRequest(origin=Origin.EXTERNAL)).key_metadata.key_id
        left = keys - objects - 1
        while left > 0:
            copies = [{"new": str(uuid.uuid4()), "model": model} for _ in range(min(BATCH, left))]
            with kms._core.store.atomic() as tx:
                for table in (schema.key, schema.regional_key):
                    tx.execute(copied_row(table), copies)
            left -= BATCH


@cache
def copied_row(table: Table) -> Insert:
    """The statement that inserts a copy of a row, for another key."""
    others = [column for column in table.columns if column.name != "key_id"]
    source = select(cast(bindparam("new"), Text), *others).where(table.c.key_id == bindparam("model"))
    return insert(table).from_select(["key_id", *(column.name for column in others)], source)


def measured(settings: Settings, backing_keys: int) -> dict[str, str]:
    """What is measured, by the words of the table. Makes the keys that a first run needs."""
    results: dict[str, str] = {}
    with opened(settings) as kms:
        if backing_keys == FEW:
            for _ in range(FEW):
                kms.create_key(CreateKeyRequest())
        key_id = kms.list_keys(ListKeysRequest(limit=1)).keys[0].key_id
        for found in kms.list_keys(ListKeysRequest(limit=1000)).keys:
            if kms._core.cache.key("us-east-1", found.key_id).current_cka_id:  # type: ignore[union-attr]
                key_id = found.key_id
                break
        request = EncryptRequest(key_id=key_id, plaintext=PLAINTEXT)
        kms.encrypt(request)
        results["Encrypt, median"] = f"{1e6 * median(lambda: kms.encrypt(request)):.0f} µs"
        page = ListKeysRequest(limit=100)
        results["ListKeys, a page of 100, median"] = f"{1e3 * median(lambda: kms.list_keys(page)):.1f} ms"
        results["`reconcile`"] = seconds(kms.operator.find_differences)
        results["`verify-store`"] = seconds(kms.operator.audit.verify_rows)
        results["what is due (`maintain --dry-run`)"] = seconds(lambda: kms.operator.maintain(dry_run=True))
    command = [str(HSMKMS), "doctor", "--config", str(settings.data_dir / "hsmkms.toml")]
    results["`hsmkms doctor`, the whole command"] = seconds(
        lambda: subprocess.run(command, check=True, capture_output=True)
    )
    results |= served(settings)
    return results


def served(settings: Settings) -> dict[str, str]:
    """The first answer of a server that looks at token and database, and its worker's memory."""
    port = free_port()
    config = str(settings.data_dir / "hsmkms.toml")
    command = [str(HSMKMS), "serve", "--config", config, "--port", str(port), "--workers", "1"]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not ready(port):
                time.sleep(0.02)
            first = time.perf_counter() - began
            (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            (size,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())
        finally:
            process.terminate()
    return {"`serve`: ready after": f"{first:.1f} s", "memory of its worker": f"{int(size) // 1024} MiB"}


def ready(port: int) -> bool:
    """Whether /readyz answers that all is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


@contextmanager
def opened(settings: Settings) -> Iterator[Kms]:
    """The installation with its audit log off, which is measured elsewhere."""
    with Kms(wiring.core_of(msgspec.structs.replace(settings, audit=AuditSettings(durability="off")))) as kms:
        yield kms


def median(act: Callable[[], object]) -> float:
    """The median time of an act, in seconds."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def seconds(act: Callable[[], object]) -> str:
    """How long an act takes once."""
    began = time.perf_counter()
    act()
    return f"{time.perf_counter() - began:.1f} s"


if __name__ == "__main__":
    main()
