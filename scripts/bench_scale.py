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
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import msgspec
from bench import PLAINTEXT, make_installation
from bench_costs import HSMKMS, free_port

from hsmkms import Kms
from hsmkms.config.settings import AuditSettings, Settings
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.enums import Origin
from hsmkms.model.keys import CreateKeyRequest, ListKeysRequest
from hsmkms.wiring import core as wiring

FEW = 10
BATCH = 2000
REPEATS = 300


def main() -> None:
    """Parse the arguments, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000, help="KMS keys in the store")
    parser.add_argument("--objects", type=int, default=20_000, help="of them with a backing key on the token")
    chosen = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        settings = make_installation(Path(folder))
        few = measured(settings, FEW)
        began = time.perf_counter()
        fill(settings, chosen.keys, chosen.objects)
        filled = time.perf_counter() - began
        many = measured(settings, chosen.objects - FEW)
    cores = len(os.sched_getaffinity(0))
    print(
        f"`scripts/bench scale` on {datetime.now(UTC):%Y-%m-%d}: {cores} cores, {chosen.keys:,} KMS keys, of which "
        f"{chosen.objects:,} have a backing key on a SoftHSM token in memory (made in {filled:.0f} s).\n"
    )
    print(f"| | {FEW} keys | {chosen.keys:,} keys |\n|---|---|---|")
    for name, value in few.items():
        print(f"| {name} | {value} | {many[name]} |")


def fill(settings: Settings, keys: int, objects: int) -> None:
    """Make the keys: with a backing key by CreateKey, the others as copies of the rows of one."""
    with opened(settings) as kms:
        for _ in range(objects - FEW):
            kms.create_key(CreateKeyRequest())
        model = kms.create_key(CreateKeyRequest(origin=Origin.EXTERNAL)).key_metadata.key_id
        left = keys - objects - 1
        while left > 0:
            with kms._core.store.atomic() as tx:
                for key_id in (str(uuid.uuid4()) for _ in range(min(BATCH, left))):
                    for table in ("key", "regional_key"):
                        columns = [row[1] for row in tx.exec_driver_sql(f"PRAGMA table_info({table})")]
                        others = ", ".join(each for each in columns if each != "key_id")
                        tx.exec_driver_sql(
                            f"INSERT INTO {table} (key_id, {others}) SELECT ?, {others} FROM {table} WHERE key_id = ?",  # noqa: S608 - our own names
                            (key_id, model),
                        )
            left -= BATCH


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
