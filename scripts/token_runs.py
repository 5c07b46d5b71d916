"""Installs PKCS#11 modules, runs device tests and capabilities on each, and writes the table of the guide."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import devices
import msgspec
from token_packages import install, version
from token_results import FAILS, REFUSED, ROOT, WORKS, DeviceTests, Result, Tried, load, save
from token_table import MODULES, Row
from tokens.capabilities import CAPABILITIES
from tokens.driver import LABEL, Driver, NotInstalledError, Token
from tokens.table import DRIVERS

TRY: Final = ROOT / "tests" / "tokens" / "try_capabilities.py"
CANNOT: Final = 77
TEST_SECONDS: Final = 3000
TRY_SECONDS: Final = 900
NAMES: Final = ("init", *CAPABILITIES)
QUICK: Final = [
    f"tests/hsm/test_hsm_{name}.py" for name in ("gcm", "objects", "loss", "login", "post_quantum", "post_quantum_api")
]
MARK: Final = "token-matrix result: "
"""Before the JSON of a result that a run in another root folder prints."""
CANNOT_RUN: Final = re.compile(r"[\w-]+: not run\b")
"""The line in which scripts/bare-machine, or this program, says what is missing."""


# -- running ----------------------------------------------------------------------------------------------------


def run(row: Row, module: Path | None, paths: list[str]) -> Result:
    """Run capabilities and device tests on a module."""
    if row.suite and not row.unpacked and suite_here() != row.suite:
        return run_in_suite(row, paths)
    environment, unpacked = install(row)
    if environment and not environment.items() <= os.environ.items():
        return run_again(row, environment, paths)  # the loader reads LD_LIBRARY_PATH when a process starts
    module = module or unpacked
    description, capabilities = try_capabilities(DRIVERS[row.driver](module))
    fit = capabilities["init"].outcome == WORKS
    return Result(
        version=" ".join(filter(None, (description, version(row) and f"({version(row)})"))),
        date=datetime.now(UTC).date().isoformat(),
        capabilities=capabilities,
        tests=run_tests(row, module, paths) if fit else DeviceTests(passed=0, skipped={}, failed=[]),
    )


def suite_here() -> str:
    """The name of this Debian."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    return found[1] if found else ""


def run_again(row: Row, environment: dict[str, str], paths: list[str]) -> Result:
    """Run a module in a process that was started with these variables."""
    command = [sys.executable, __file__, "--print", row.name, *(f"--tests={path}" for path in paths)]
    return printed(command, os.environ | environment)


def run_in_suite(row: Row, paths: list[str]) -> Result:
    """Run a module in a bare Debian, on a clone of what is committed."""
    command = ["scripts/token-matrix", "--print", row.name, *(f"--tests={path}" for path in paths)]
    return printed([str(ROOT / "scripts" / "bare-machine"), row.suite, *command])


def printed(command: list[str], environment: dict[str, str] | None = None) -> Result:
    """Run a command that prints a result; NotInstalledError with the reason that it printed if there is none."""
    with tempfile.TemporaryFile("w+") as output:
        reason = ""
        with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment) as process:
            for line in process.stderr or ():
                sys.stderr.write(line)
                reason = line.strip() if CANNOT_RUN.match(line) else reason
        output.seek(0)
        lines = output.read().splitlines()
    found = [line for line in lines if line.startswith(MARK)]
    if not found:
        refusals = [line for line in lines if CANNOT_RUN.match(line)]
        raise NotInstalledError(
            (reason, *refusals)[-1] or f"{Path(command[0]).name} ended with status {process.returncode}"
        )
    return msgspec.json.decode(found[-1].removeprefix(MARK), type=Result)


@contextmanager
def fresh_token(driver: Driver) -> Iterator[Token]:
    """A token for the capabilities."""
    with tempfile.TemporaryDirectory(prefix="hsmkms-token-") as name:
        folder = Path(name)
        try:
            yield driver.make(folder, LABEL)
        finally:
            driver.close(folder)


def try_capabilities(driver: Driver) -> tuple[str, dict[str, Tried]]:
    """Try every capability in a process of its own; the module's description, and what came of each."""
    with fresh_token(driver) as token:
        process = devices.start(TRY, token)
        output, errors = process.communicate(timeout=TRY_SECONDS)
    sys.stderr.write(errors)
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    description = next((line["sentence"] for line in lines if line["outcome"] == "module"), "")
    tried = {line["capability"]: Tried(line["outcome"], line["sentence"]) for line in lines}
    begun = tried.get("init", Tried(FAILS, f"the process ended with status {process.returncode} before init"))
    if driver.refusal(begun.sentence):
        return description, dict.fromkeys(NAMES, Tried(REFUSED, begun.sentence))
    ended = {name: Tried(FAILS, f"the process ended in it with status {process.returncode}") for name in tried}
    known = {name: ended[name] if each.outcome == "tried" else each for name, each in tried.items()}
    return description, {name: known[name] for name in NAMES if name in known}


def run_tests(row: Row, module: Path | None, paths: list[str]) -> DeviceTests:
    """Run the device tests. A test that crashes ends a worker alone."""
    with tempfile.TemporaryDirectory(prefix="hsmkms-matrix-") as name:
        report = Path(name) / "tests.xml"
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-n", "1", "--tb=short", "-p", "no:cacheprovider"),
            *(f"--hsm-driver={row.driver}", f"--junitxml={report}", *(paths or ["tests/hsm"])),
            *([f"--hsm-module={module}"] if module else []),
        ]
        done = subprocess.run(
            command, cwd=ROOT, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False, timeout=TEST_SECONDS
        )
        if not report.exists():
            raise RuntimeError(f"pytest ended with status {done.returncode} and no report")
        return msgspec.structs.replace(read_report(report), partial=bool(paths))


def read_report(report: Path) -> DeviceTests:
    """Read pytest's XML: how many passed, why others were skipped, and which failed."""
    passed, skipped, failed = 0, Counter[str](), []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
        reason = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}")
        elif reason is not None:
            skipped[reason.get("message", "").partition("Skipped: ")[2] or reason.get("message", "")] += 1
        else:
            passed += 1
    return DeviceTests(passed=passed, skipped=dict(skipped.most_common()), failed=sorted(failed))


# -- the command ------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the modules that are asked for; the page is written after each."""
    parser = argparse.ArgumentParser(prog="scripts/token-matrix", description="Run hsmkms on real PKCS#11 modules.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of modules; all that can be had if none")
    parser.add_argument("--list", action="store_true", help="show the modules and run none")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--print", action="store_true", help="print the result as JSON, and write nothing")
    parser.add_argument("--quick", action="store_true", help="run the device tests of some files alone")
    parser.add_argument("--module", type=Path, metavar="SO", help="file of a module that was built elsewhere")
    parser.add_argument(
        "--tests", action="append", default=[], metavar="PATH", help="device tests to run; default: all"
    )
    asked = parser.parse_args()
    asked.tests += QUICK if asked.quick else []
    known = {row.name: row for row in MODULES}
    if unknown := set(asked.names) - {*known}:
        parser.error(f"there is no module {', '.join(sorted(unknown))}: --list shows them")
    if asked.list:
        print("\n".join(f"{row.name}: {row.title}" for row in MODULES))
        return 0
    chosen = [known[name] for name in asked.names] or [row for row in MODULES if not row.built and not row.absent]
    statuses = {outcome(row, asked) for row in chosen}
    return next((status for status in (1, CANNOT) if status in statuses), 0)


def outcome(row: Row, asked: argparse.Namespace) -> int:
    """Run a module and write or print what came of it; the status: 0, 1 if something fails, 77 if it was not run."""
    if row.absent or (row.built and asked.module is None):
        built = "Debian has no package of it: build it, and name its file with --module"
        print(f"{row.name}: not run: {row.absent or built}")
        return CANNOT
    try:
        result = run(row, asked.module, asked.tests)
    except NotInstalledError as exc:
        print(f"{row.name}: not run: {exc}", flush=True)
        return CANNOT
    if asked.print:
        print(f"{MARK}{msgspec.json.encode(result).decode()}", flush=True)
    elif not asked.check:
        save(load() | {row.name: result})
    worked = sum(each.outcome == WORKS for each in result.capabilities.values())
    tests = result.tests
    counts = f"{tests.passed} passed, {sum(tests.skipped.values())} skipped, {len(tests.failed)} failed"
    shown = f"{worked} of {len(result.capabilities)} capabilities; device tests: {counts}"
    print(f"{row.name} {result.version}: {shown}", flush=True)
    return 1 if result.fails else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
