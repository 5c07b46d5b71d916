"""How long it takes to verify the audit log. What writing it costs is measured by bench_durability.py.

Folders are made in the current one: in /tmp there may be memory instead of a disk.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
from bench import make_installation

from hsmkms import Kms
from hsmkms.config.settings import AuditSettings, Settings
from hsmkms.model.keys import CreateKeyRequest, DescribeKeyRequest
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.store import audit_files
from hsmkms.wiring import core as wiring


def fdatasync_milliseconds(folder: Path, size: int = 1000, rounds: int = 200) -> float:
    """The median time in which a line of so many bytes gets to the disk."""
    taken = []
    with (folder / "fdatasync").open("wb", buffering=0) as file:
        for _ in range(rounds):
            started = time.perf_counter()
            file.write(b"x" * size)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def bench_verify(settings: Settings, count: int) -> None:
    """Verify so many records: real ones of DescribeKey, chained and sealed as by a process that wrote them all."""
    folder = wiring.audit_folder(settings)
    varied = msgspec.structs.replace(settings, audit=AuditSettings(durability="interval"))
    with Kms(wiring.core_of(varied)) as kms:
        key_id = kms.create_key(CreateKeyRequest()).key_metadata.key_id
        kms.describe_key(DescribeKeyRequest(key_id=key_id))
        kms._core.audit.flush()
        newest = audit_files.segments(folder)["0001"][-1].path
        record = audit_chain.record_of(audit_files.last_line(newest))
        journal = kms._core.audit._journal
        for number in range(count):
            journal.add(record)
            if number % 10_000 == 0:
                journal.flush()
    with Kms(wiring.core_of(settings)) as kms:
        started = time.perf_counter()
        verdict = kms.operator.audit.verify()
        seconds = time.perf_counter() - started
    if verdict.faults:
        raise SystemExit(f"the log does not verify: {verdict.faults[0]}")
    print(f"\nVerified {verdict.records:,} records of {len(record)} bytes in {seconds:.1f} s.")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="records to verify")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".hsmkms-bench-", dir=Path.cwd()) as folder:
        bench_verify(make_installation(Path(folder)), arguments.records)


if __name__ == "__main__":
    main()
