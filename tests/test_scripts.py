"""The shell scripts: they are well formed, can be started, and continuous integration runs what people run."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

ROOT = Path(__file__).parent.parent
BASH = [
    path
    for path in sorted([*(ROOT / "scripts").iterdir(), *(ROOT / ".ci").iterdir()])
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash\n")
]


def names(paths: list[Path]) -> set[str]:
    """Paths as they are in the checkout."""
    return {str(path.relative_to(ROOT)) for path in paths}


def commands(path: Path) -> str:
    """A script without its comments."""
    return re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)


def test_all_are_found() -> None:
    """The scripts that people and continuous integration start are among those that are tested here."""
    assert names(BASH) >= {"scripts/setup", "scripts/quickstart", "scripts/test", "scripts/check", ".ci/run"}


@pytest.mark.parametrize("script", BASH, ids=lambda path: path.name)
def test_scripts(script: Path) -> None:
    """Each script can be executed, is valid bash, and stops at its first error."""
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert re.search(r"^set -euo pipefail$", script.read_text(), re.MULTILINE)


def test_continuous_integration() -> None:
    """Continuous integration runs checks, tests, two more modules and a bare Debian 13, without terminal or input."""
    run = commands(ROOT / ".ci/run")
    assert '"$root/scripts/check" </dev/null' in run
    assert '"$root/scripts/test" </dev/null' in run
    assert '"$root/scripts/token-matrix" --check --quick nss firefox </dev/null' in run
    assert '"$root/scripts/bare-machine" trixie </dev/null' in run


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        *(("0 0 0 0", 0), ("1 0 0 0", 1), ("0 1 0 0", 1), ("0 0 1 0", 1), ("0 0 0 1", 1)),
        *(("0 0 77 0", 0), ("0 0 0 77", 0), ("0 0 77 1", 1)),
    ],
)
def test_failures_of_continuous_integration(tmp_path: Path, statuses: str, status: int) -> None:
    """It fails with what fails first; only a module or a bare Debian that cannot be had is left out, by name."""
    for folder in (".ci", "scripts"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    for name, ending in zip(("check", "test", "token-matrix", "bare-machine"), statuses.split(), strict=True):
        stand_in(tmp_path / "scripts", name, f"echo {name}; exit {ending}")
    done = subprocess.run([tmp_path / ".ci/run"], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("module was left out" in done.stdout) is (statuses.split()[2] == "77")
    assert ("Debian 13 was left out" in done.stdout) is (statuses.split()[3] == "77")
    assert done.stdout.count("bare-machine") == (statuses.startswith(("0 0 0", "0 0 77")))


@pytest.mark.parametrize("name", ["test", "check", "quickstart"])
def test_setup_comes_first(name: str) -> None:
    """Each script makes the machine ready before it does anything else."""
    script = commands(ROOT / "scripts" / name)
    others = [script.find(word) for word in (".venv/bin", "hsmkms init") if word in script]
    assert 0 < script.find('"$root/scripts/setup"') < min(others)


def test_compiler_of_the_shim() -> None:
    """A clean checkout gets what compiles the shim from the project's own script."""
    (packages,) = re.findall(r'"\$root/scripts/setup" --dev (.*)', commands(ROOT / "scripts/test"))
    assert {"softhsm2", "gcc", "libc6-dev"} <= set(packages.split())


@pytest.mark.parametrize(
    ("statuses", "status", "runs"), [("0 0", 0, 1), ("1 0", 0, 2), ("1 1", 1, 2), ("2 0", 2, 1), ("1 5", 5, 2)]
)
def test_failed_tests_run_once_more(tmp_path: Path, statuses: str, status: int, runs: int) -> None:
    """What failed is run once more by itself and fails the run if it fails again; other faults fail it at once."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/test", tmp_path / "scripts")
    stand_in(tmp_path / "scripts", "setup", "exit 0")
    first, second = statuses.split()
    text = f'echo "$@" >>{tmp_path}/log; [[ "$*" == *--last-failed* ]] && exit {second}; exit {first}'
    stand_in(tmp_path / ".venv/bin", "python", text)
    done = subprocess.run([tmp_path / "scripts/test"], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert len((tmp_path / "log").read_text().splitlines()) == runs
    assert ("please report them" in done.stderr) is (statuses == "1 0")


def test_nothing_of_the_person_is_touched() -> None:
    """Tests and quickstart forget whatever installation or token the environment points at."""
    for name in ("test", "quickstart"):
        assert "unset HSMKMS_CONFIG SOFTHSM2_CONF" in commands(ROOT / "scripts" / name)


def checkout(folder: Path) -> Path:
    """A checkout as far as scripts/setup reads it, with an environment that is complete."""
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup", folder / "scripts/setup")
    (folder / "pyproject.toml").write_text("")
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -m ]; then echo "$@" >>"{folder}/log"; else exec {sys.executable} "$@"; fi\n'
    )
    python.chmod(0o755)
    return folder


def setup(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run scripts/setup of a checkout; never as root's package manager, so without packages."""
    return subprocess.run(
        [folder / "scripts/setup", *arguments], capture_output=True, text=True, check=False, cwd="/", timeout=60
    )


def installs(folder: Path) -> int:
    """How often the package was installed."""
    log = folder / "log"
    return log.read_text().count("pip install") if log.exists() else 0


def test_setup_installs_once(tmp_path: Path) -> None:
    """A second run is quiet and does nothing; the tools are added when asked for, and have the base in them."""
    folder = checkout(tmp_path / "a b")
    assert setup(folder).returncode == 0
    assert installs(folder) == 1
    again = setup(folder)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert installs(folder) == 1
    setup(folder, "--dev")
    assert installs(folder) == 2
    setup(folder)
    assert installs(folder) == 2
    assert "[dev]" in (folder / "log").read_text()


def test_setup_installs_again(tmp_path: Path) -> None:
    """Another pyproject.toml, or another place, makes it install again."""
    folder = checkout(tmp_path / "one")
    setup(folder)
    (folder / "pyproject.toml").write_text("[project]")
    setup(folder)
    assert installs(folder) == 2
    moved = folder.rename(tmp_path / "two")
    (tmp_path / "one").mkdir()
    setup(moved)
    assert (moved / ".venv/.hsmkms-installed").read_text().count(str(moved)) == 2


def test_setup_refusals(tmp_path: Path) -> None:
    """An unknown option, and a Python that does not fit, are refused by name."""
    folder = checkout(tmp_path)
    assert "unknown option --fast" in setup(folder, "--fast").stderr
    shutil.rmtree(folder / ".venv")
    done = subprocess.run(
        [folder / "scripts/setup"],
        env={**os.environ, "PYTHON": "/bin/true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "PYTHON=/bin/true is no Python 3.11 or newer" in done.stderr


def test_setup_names_all_packages_at_once(tmp_path: Path) -> None:
    """What is missing, a Python for the environment among it, is named in one line and installed by one command."""
    folder = checkout(tmp_path / "checkout")
    shutil.rmtree(folder / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    stand_in(tools, "apt-get", f'echo "$@" >>{tmp_path}/apt')
    stand_in(tools, "sudo", 'exec "$@"')
    stand_in(tools, "dpkg-query", "[[ $3 == there ]] && echo installed")
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        stand_in(tools, name, "exit 1")
    done = subprocess.run(
        [folder / "scripts/setup", "jq", "there", "curl"],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "setup: installing jq curl python3 python3-venv"
    assert "hsmkms needs Python 3.11 or newer" in done.stderr
    installs = [line for line in (tmp_path / "apt").read_text().splitlines() if " install " in line]
    assert [line.partition("--no-install-recommends ")[2] for line in installs] == ["jq curl python3 python3-venv"]


# -- scripts/bare-machine -----------------------------------------------------------------------------------------


def stand_in(folder: Path, name: str, text: str) -> None:
    """A program that a script finds before the real one."""
    file = folder / name
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Programs for scripts/bare-machine: every package is installed, apt is silent, and nothing is made or mounted."""
    if os.geteuid():
        pytest.skip("scripts/bare-machine is for root")
    folder = tmp_path / "tools"
    folder.mkdir()
    stand_in(folder, "dpkg-query", "echo installed")
    for name in ("apt-get", "apt-config", "unshare"):
        stand_in(folder, name, "true")
    return folder


def bare_machine(tools: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Start scripts/bare-machine with these tools, its own folder for temporary files, and default signals."""
    (tools.parent / "work").mkdir()
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tools), "TMPDIR": str(tools.parent / "work")}
    return subprocess.Popen(
        ["env", "--default-signal=HUP,INT,TERM", ROOT / "scripts/bare-machine", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("arguments", [[], ["--fast"], ["tri/xie"], ["--cache"]])
def test_bare_machine_usage(arguments: list[str]) -> None:
    """Without the name of a suite, or with an unknown option, it prints its usage."""
    done = subprocess.run(
        [ROOT / "scripts/bare-machine", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "usage: scripts/bare-machine" in done.stderr


def test_bare_machine_without_mounts(tools: Path) -> None:
    """Where mounting is refused it says so with a status of its own, and leaves nothing."""
    stand_in(tools, "unshare", "echo 'unshare failed: Operation not permitted' >&2; exit 1")
    with bare_machine(tools, "trixie") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 77
    assert output.endswith("not run on this machine: mounting is refused: unshare failed: Operation not permitted \n")
    assert not any((tools.parent / "work").iterdir())


def test_bare_machine_without_control_groups(tools: Path) -> None:
    """Where systemd cannot be booted it says so with the same status, and leaves nothing."""
    stand_in(tools, "unshare", '[[ "$*" != *cgroup2* ]] || { echo "mount: unknown filesystem" >&2; exit 1; }')
    with bare_machine(tools, "--systemd", "trixie") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 77
    assert output.endswith("systemd needs control groups of version 2: mount: unknown filesystem \n")
    assert not any((tools.parent / "work").iterdir())


def test_bare_machine_without_the_suite(tools: Path) -> None:
    """An archive that has no such suite is a fault and no excuse."""
    with bare_machine(tools, "trixie") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no archive that apt uses here has trixie" in output
    assert not any((tools.parent / "work").iterdir())


def test_bare_machine_of_a_suite_that_debootstrap_does_not_know(tools: Path) -> None:
    """A suite that is newer than debootstrap is made by the script of unstable."""
    release = tools / "mirror" / "dists" / "newer" / "InRelease"
    release.parent.mkdir(parents=True)
    release.touch()
    stand_in(tools, "unshare", f'[[ "$*" == *debootstrap* ]] || exit 0; echo "$*" >{tools}/made; exit 1')
    with bare_machine(tools, "--mirror", f"file://{tools}/mirror", "newer") as process:
        said, _ = process.communicate(timeout=60)
    assert "debootstrap failed" in said
    assert (tools / "made").read_text().endswith(f" file://{tools}/mirror sid\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_bare_machine_interrupted(tools: Path, number: signal.Signals) -> None:
    """Interrupted, it ends what it has started at once, and removes what it has made."""
    cache = tools / "cache"
    (cache / "root/etc/apt/apt.conf.d").mkdir(parents=True)
    subprocess.run(["tar", "-C", cache / "root", "-cf", cache / "trixie.tar", "."], check=True)
    stand_in(tools, "unshare", f'[[ "$*" == *chroot* ]] || exit 0; echo $$ >{tools}/pid; exec sleep 600')
    with bare_machine(tools, "--cache", cache, "trixie") as process:
        until(lambda: (tools / "pid").exists() and (tools / "pid").read_text() != "", 60)
        child = Path("/proc") / (tools / "pid").read_text().strip()
        assert child.exists()
        assert any((tools.parent / "work").iterdir())
        process.send_signal(number)
        try:
            assert process.wait(60) == 128 + number
        finally:
            process.kill()
    until(lambda: not child.exists(), 60)  # init may have to collect it first
    assert not any((tools.parent / "work").iterdir())
