"""Installs the packages of PKCS#11 modules, or unpacks them into a folder of the checkout."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from token_results import ROOT
from token_table import Row
from tokens.driver import NotInstalledError
from tokens.nss import FOLDER_VARIABLE

UNPACKED: Final = ROOT / ".token-modules"
INSTALL_SECONDS: Final = 900
LIBRARY: Final = "libsoftokn3.so"
"""The module in the packages that are only unpacked, which all have NSS."""


def install(row: Row) -> tuple[dict[str, str], Path | None]:
    """Install a module; return the variables that a process needs to load it, and its file if it was only unpacked.

    Raises NotInstalledError if it cannot be had.
    """
    if row.unpacked:
        if row.debian[1:]:
            setup_packages(*row.debian[1:])
        (library,) = unpack(row).rglob(LIBRARY)
        return {FOLDER_VARIABLE: str(library.parent), "LD_LIBRARY_PATH": str(library.parent)}, library
    if row.debian:
        setup_packages(*row.debian)
    return {}, None


def unpack(row: Row) -> Path:
    """Unpack the first package of a row into a folder of the checkout, once; return the folder."""
    folder = UNPACKED / row.name
    if folder.exists():
        return folder
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    download(row.debian[0], row.suite, new)
    (package,) = new.glob("*.deb")
    run_installer(["dpkg-deb", "--extract", str(package), str(new)])
    (new / "version").write_text(package.name.split("_")[1].replace("%3a", ":"))
    package.unlink()
    return new.rename(folder)


def download(package: str, suite: str, folder: Path) -> None:
    """Download a package of this Debian, or of another suite from the archives that apt uses here."""
    if not suite:
        run_installer(["apt-get", "download", "--quiet", package], folder)
        return
    with tempfile.TemporaryDirectory(prefix="hsmkms-apt-") as name:
        state = Path(name)
        for each in ("lists/partial", "cache/archives/partial"):
            (state / each).mkdir(parents=True)
        sources = state / "sources.list"
        apt = [
            *("apt-get", "--quiet", "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
            *("-o", f"Dir::State::Lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"),
            *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"),
        ]
        refused = NotInstalledError("apt uses no archive here")
        for archive in archives():
            sources.write_text(f"deb {archive} {suite} main\n")
            try:
                run_installer([*apt, "-o", "APT::Update::Error-Mode=any", "update"])
            except NotInstalledError as exc:
                refused = exc
                continue
            run_installer([*apt, "download", package], folder)
            return
        raise NotInstalledError(f"no archive that apt uses here has {suite}: {refused}")


def archives() -> list[str]:
    """Return the addresses of the archives that apt uses here, the ones with most indexes first."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return sorted({*lines}, key=lambda line: (-lines.count(line), line))


def setup_packages(*packages: str) -> None:
    """Install packages of this Debian."""
    run_installer([str(ROOT / "scripts" / "setup"), "--packages", *packages])


def run_installer(command: list[str], folder: Path | None = None) -> None:
    """Run an installer; NotInstalledError with its last line if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=INSTALL_SECONDS)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["it printed nothing"]
        raise NotInstalledError(f"{Path(command[0]).name} cannot install it: {words[-1]}")


def version(row: Row) -> str:
    """Return the version of the package that has the module."""
    if row.unpacked:
        return (UNPACKED / row.name / "version").read_text()
    if not row.debian:
        return ""
    command = ["dpkg-query", "--show", "--showformat=${Version}", row.debian[0]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
