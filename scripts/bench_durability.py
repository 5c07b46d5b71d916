"""Encrypt through the façade with each durability of the audit log, on 1, 8 and 32 threads, beside bare python-pkcs11.

Each contender is a process with an installation of its own, which stays open while the others take their turns; medians
of the rounds are printed. Files "on a disk" are in the current folder, all others in memory. The processor time of an
encryption says more than its rate where other work shares the machine.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec
from bench import Bare, facade, make_installation, rate
from bench_audit import fdatasync_milliseconds

from hsmkms import Kms
from hsmkms.config.settings import AuditSettings
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.wiring import core as wiring

BARE = "bare"
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder with a random name is made in it
WARM_UP = 500


class Contender(NamedTuple):
    """What a process measures: the audit log's durability, or bare python-pkcs11, and where its files are."""

    name: str
    durability: str
    folder: Path


class Result(NamedTuple):
    """Encryptions a second, and the processor time of one in microseconds, that of all threads together."""

    rate: float
    microseconds: float


class _Opened:
    """What the process of a contender measures."""

    encrypt: Callable[[], object]


def open_contender(durability: str, folder: str) -> None:
    """Make an installation and keep it open until the process ends."""
    made = make_installation(Path(folder))
    kept = "off" if durability == BARE else durability
    kms = Kms(wiring.core_of(msgspec.structs.replace(made, audit=AuditSettings(durability=kept))))
    key_id = kms.create_key(CreateKeyRequest()).key_metadata.key_id
    cka_id = bytes.fromhex(kms.operator.attest(key_id)[0].cka_id)
    _Opened.encrypt = Bare(kms, cka_id).encrypt if durability == BARE else facade(kms, key_id)[0]
    for _ in range(WARM_UP):
        _Opened.encrypt()


def measure(threads: int, seconds: float) -> Result:
    """Encrypt on so many threads for so long; in the contender's process."""
    began, processor = time.perf_counter(), time.process_time()
    per_second = rate(_Opened.encrypt, threads, seconds)
    count = per_second * (time.perf_counter() - began)
    return Result(per_second, (time.process_time() - processor) / count * 1e6)


def bench(contenders: list[Contender], threads: list[int], seconds: float, rounds: int) -> None:
    """Measure all of them in turn, and print the table; the last one is what the others are compared with."""
    spawn = multiprocessing.get_context("spawn")  # a module of PKCS#11 is of no use in a forked child
    results: dict[tuple[str, int], list[Result]] = {}
    with ExitStack() as until_here:
        processes = {}
        for name, durability, place in contenders:
            folder = until_here.enter_context(tempfile.TemporaryDirectory(prefix=".hsmkms-bench-", dir=place))
            processes[name] = until_here.enter_context(
                ProcessPoolExecutor(1, spawn, initializer=open_contender, initargs=(durability, folder))
            )
        for _ in range(rounds):
            for count in threads:
                for name, process in processes.items():
                    result = process.submit(measure, count, seconds).result()
                    results.setdefault((name, count), []).append(result)
    medians = {key: Result(*map(statistics.median, zip(*each, strict=True))) for key, each in results.items()}
    print("| audit log | threads | Encrypt/s | of one thread | of bare | µs of processor | of bare |")
    print("|---|---|---|---|---|---|---|")
    order = [each.name for each in contenders]
    for (name, count), median in sorted(medians.items(), key=lambda each: order.index(each[0][0])):
        one, bare = medians[name, threads[0]], medians[contenders[-1].name, count]
        print(
            f"| {name} | {count} | {median.rate:,.0f} | {median.rate / one.rate:.2f} | {median.rate / bare.rate:.2f} | "
            f"{median.microseconds:.1f} | {bare.microseconds / median.microseconds:.2f} |"
        )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is measured")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8, 32], help="numbers of threads")
    arguments = parser.parse_args()
    disk = Path.cwd()
    with tempfile.TemporaryDirectory(prefix=".hsmkms-bench-", dir=disk) as folder:
        milliseconds = fdatasync_milliseconds(Path(folder))
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}; 64 bytes; "
        f"fdatasync of a record on the disk: {milliseconds:.2f} ms; load before: {os.getloadavg()[0]:.1f}\n"
    )
    contenders = [
        Contender("off", "off", MEMORY),
        Contender("`interval`", "interval", MEMORY),
        Contender("`commit`, on a disk", "commit", disk),
        Contender("`commit`, in memory", "commit", MEMORY),
        Contender("bare python-pkcs11", BARE, MEMORY),
    ]
    bench(contenders, arguments.threads, arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
