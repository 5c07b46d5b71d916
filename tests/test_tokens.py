"""The table of modules (scripts/token_table.py), their drivers, and the guide's page of what was run."""

import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest
import token_packages
import token_runs
from token_results import FAILS, GUIDE, ROOT, WORKS, DeviceTests, Result, Tried, body, load, rewritten
from token_runs import read_report
from token_table import MODULES, Row
from tokens.driver import Driver, NotInstalledError, NotPossibleError, Reason, Token
from tokens.table import DRIVERS

BUILT = Result(
    version="1.0",
    date="2026-11-30",
    capabilities={"init": Tried(WORKS), "rotation": Tried("refused", "It has none: it has keys of RSA_2048.")},
    tests=DeviceTests(passed=3, skipped={"it is not about this module": 2}, failed=["test_x::test_y"]),
)


@pytest.mark.parametrize("row", MODULES, ids=lambda row: row.name)
def test_modules_are_whole(row: Row) -> None:
    """A module is run by a driver, from packages or a path, or it is absent with a reason."""
    assert bool(row.absent) != (row.driver in DRIVERS)
    assert bool(row.debian) != bool(row.built or row.absent)


def test_every_driver_is_used() -> None:
    """No driver lies about for which there is no module."""
    assert {row.driver for row in MODULES if row.driver} == {*DRIVERS}


def test_the_guide_is_current() -> None:
    """The page is what the results say."""
    text = GUIDE.read_text()
    assert rewritten(text, load()) == text


def test_nothing_fails() -> None:
    """On every module each capability works or is refused, and each test passes or is skipped for a reason."""
    assert [name for name, result in load().items() if result.fails] == []


def test_results_are_shown() -> None:
    """The page shows versions, counts, refusals by their sentence, and failures by their name."""
    text = body({"nss": BUILT})
    assert "| NSS softokn | 1.0 | 1 of 2 | 3 passed, 2 skipped, 1 failed | 2026-11-30 |" in text
    assert "| rotation | no |" in text
    assert "- rotation: It has none.\n" in text
    assert "- 2 tests: it is not about this module" in text
    assert "- failed: `test_x::test_y`" in text
    assert re.search(r"\| kryoptic \| 1\.5\.2: [^|]+\| not run: Debian has no package of it \| \| \|", text)
    assert BUILT.fails


def test_a_failed_capability_is_a_failure() -> None:
    """A result whose tests pass fails all the same if a capability does."""
    quiet = DeviceTests(passed=1, skipped={}, failed=[])
    assert Result(version="", date="", capabilities={"init": Tried(FAILS, "x")}, tests=quiet).fails
    assert not Result(version="", date="", capabilities={"init": Tried(WORKS)}, tests=quiet).fails


def test_reports_of_pytest(tmp_path: Path) -> None:
    """Passed tests are counted, skipped ones by their reason, failures and errors by their name."""
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.hsm.test_a" name="test_1"/>'
        '<testcase classname="tests.hsm.test_a" name="test_2"><skipped message="Skipped: why"></skipped></testcase>'
        '<testcase classname="tests.hsm.test_a" name="test_3"><skipped message="why"/></testcase>'
        '<testcase classname="tests.hsm.test_b" name="test_4"><failure message="m"/></testcase>'
        '<testcase classname="tests.hsm.test_b" name="test_5"><error message="m"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert read_report(report) == DeviceTests(passed=1, skipped={"why": 2}, failed=["test_b::test_4", "test_b::test_5"])


@cache
def device_tests() -> list[str]:
    """Return the node ids of all device tests, without parameters."""
    files = (ROOT / "tests" / "hsm").glob("test_*.py")
    functions = re.compile(r"^def (test_\w+)", re.MULTILINE)
    return [f"{file.name}::{name}" for file in files for name in functions.findall(file.read_text())]


def alternatives(pattern: str) -> Iterator[str]:
    """Yield a pattern once for each alternative of its group, if it has one, without parameters of tests."""
    group = re.search(r"\(\?:(.*)\)", pattern)
    for alternative in group[1].split("|") if group is not None else [""]:
        whole = pattern if group is None else pattern[: group.start()] + alternative + pattern[group.end() :]
        yield whole.partition(r"\[")[0]


@pytest.mark.parametrize("name", DRIVERS)
def test_exclusions_name_tests(name: str) -> None:
    """Each alternative of an exclusion's pattern matches a device test: none is left from before a test's renaming."""
    patterns = [one for reason in DRIVERS[name].excluded for one in alternatives(reason.pattern)]
    assert [each for each in patterns if not any(re.search(each, test) for test in device_tests())] == []


class Named(Driver):
    """A driver of a module that is nowhere."""

    name = "named"
    title = "Named"
    packages = ("libnamed",)
    files = ("no-such-module.so",)
    excluded = (Reason(r"test_a\.py::", "another file"),)
    refused = (Reason("^the token has no X", "no X"),)

    def make(self, folder: Path, label: str = "") -> Token:
        """Make no token: there is no module."""
        raise NotPossibleError(f"no token {label} can be made in {folder}")


def test_drivers_name_their_reasons(tmp_path: Path) -> None:
    """A missing module is named with its package; exclusions and refusals are found by pattern, others are none."""
    with pytest.raises(NotInstalledError, match="install libnamed"):
        Named()
    with pytest.raises(TypeError, match=r"abstract method '?make'?"):
        type("WithoutTokens", (Driver,), {"name": "n"})(tmp_path)
    driver = Named(tmp_path / "module.so")
    assert driver.exclusion("tests/hsm/test_a.py::test_1") == "another file"
    assert driver.exclusion("tests/hsm/test_b.py::test_1") is None
    assert driver.refusal("the token has no X: hsmkms needs it") == "no X"
    assert driver.refusal("the token has no Y") is None


def test_a_module_with_one_token() -> None:
    """A second token is refused with a reason where the driver makes one alone."""
    token = Token(module=Path("m"), folder=Path("f"), label="l", serial="", environment={})
    with pytest.raises(NotPossibleError, match="has one alone"):
        token.add_token("another")
    assert token.settings().choice.serial is None


def test_dates_are_dates() -> None:
    """Each module that was run says when, and in which version."""
    for result in load().values():
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", result.date)
        assert result.version


@pytest.mark.parametrize(("endings", "status"), [((0, 0), 0), ((0, 77), 77), ((1, 77), 1), ((77, 1), 1)])
def test_a_failure_counts_more_than_a_module_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, endings: tuple[int, int], status: int
) -> None:
    """The status of a run is 1 if any module fails, else 77 if any could not be installed."""
    left = list(endings)
    monkeypatch.setattr(token_runs, "outcome", lambda _row, _asked: left.pop(0))
    monkeypatch.setattr(sys, "argv", ["token-matrix", "--check", "--quick", "nss", "firefox"])
    assert token_runs.main() == status
    assert left == []


def test_results_of_another_process() -> None:
    """The result of a run in another root folder is read from its output, whatever else that says."""
    text = f"a line\n{token_runs.MARK}{msgspec.json.encode(BUILT).decode()}\n"
    assert token_runs.printed([sys.executable, "-c", f"print({text!r}); raise SystemExit(1)"]) == BUILT


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_that_is_not_possible_says_why(stream: str) -> None:
    """What scripts/bare-machine or another token-matrix lacks is the reason; without one, the status is."""
    lacks = "bare-machine: not run on this machine: only root can make a root folder"
    program = f"import sys; print('one test was not run'); print({lacks!r}, file=sys.{stream}); sys.exit(77)"
    with pytest.raises(NotInstalledError, match=f"^{lacks}$"):
        token_runs.printed([sys.executable, "-c", program])
    with pytest.raises(NotInstalledError, match=r"ended with status 3$"):
        token_runs.printed([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_package_of_no_archive(tmp_path: Path) -> None:
    """A suite that no archive of this machine's apt has is named."""
    if shutil.which("apt-get") is None:
        pytest.skip("there is no apt-get here, which downloads the packages")
    with pytest.raises(NotInstalledError, match="no archive that apt uses here has no-such-suite"):
        token_packages.download("libnss3", "no-such-suite", tmp_path)


def test_quick_tests_exist() -> None:
    """What continuous integration runs on other modules is there."""
    assert all((ROOT / path).is_file() for path in token_runs.QUICK)
