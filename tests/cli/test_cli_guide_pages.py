"""Every command of the README and of the guide, run as it is printed, does what the page says."""

import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pages
import pytest
import warm
from cli_site import BIN, NewFolder, Site
from devices import SoftHsm
from msgspec import Struct, field
from tokens.nss import FOLDER_VARIABLE

POST_QUANTUM_NSS: Final = (3, 131)
REGIONS: Final = ("--region", "us-east-1", "--region", "eu-west-1")
TOOLS: Final[Mapping[str, str]] = {
    **{name: name for name in ("age", "curl", "faketime", "jq", "openssl", "sqlite3")},
    "age-keygen": "age",
    "pkcs11-tool": "opensc",
    "softhsm2-util": "softhsm2",
}
"""What the pages use besides hsmkms and what every Debian has, with its packages; scripts/test installs them."""


class Reader(Struct, frozen=True, kw_only=True):
    """What a page takes for granted: places (what stands in the page: what is here), and the environment."""

    places: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tour(new_folder: NewFolder) -> Site:
    """The installation of the README's tour, with its key and its file: what most pages begin with a copy of."""
    tour = Site(folder=new_folder(), name="hsmkms-data")
    tour.folder.mkdir()
    assert tour.run("init", "--data-dir", tour.data, "--create-softhsm-token", *REGIONS).status == 0
    key = tour.new_key("--description", "holiday photos")
    assert tour.run("create-alias", "--alias-name", "photos", "--target-key-id", key).status == 0
    (tour.folder / "secret.txt").write_text("a secret of ours\n")
    (tour.folder / "conf").symlink_to(pages.ROOT / "conf")
    return tour


def installed(site: Site, tour: Site) -> Reader:
    """A copy of the tour's installation."""
    return Reader(environment={"HSMKMS_CONFIG": str(tour.copy(site.folder).config)})


def served(site: Site, tour: Site) -> Reader:
    """The same on a free port, with servers that are the processes which the shell knows (see warm.py)."""
    return Reader(places=_free_port(), environment={**installed(site, tour).environment, **_own_servers(site)})


def toured(site: Site, _tour: Site) -> Reader:
    """Link the samples alone: the README creates everything else."""
    (site.folder / "conf").symlink_to(pages.ROOT / "conf")
    return Reader(places=_free_port(), environment=_own_servers(site))


def on_a_bad_day(site: Site, tour: Site) -> Reader:
    """The tour's installation with the backup and the operator's key that the page of operations makes."""
    reader = installed(site, tour)
    making = [
        command
        for command in pages.commands((pages.GUIDE / "operations.md").read_text())
        if re.search(r"operator\.txt|mkdir --parents", command)
    ]
    steps = [pages.Step(command=each.replace(" --signing-key signing.pem", ""), output=[], status=0) for each in making]
    done = pages.run(site, steps, reader.places, reader.environment)
    assert [each.status for each in done] == [0, 0, 0], done
    return reader


def at_an_hsm(site: Site, _tour: Site) -> Reader:
    """A token with its PIN file, and no installation: SoftHSM in the place of a vendor's module."""
    token = SoftHsm.make(site.folder, "production")
    pin = site.folder / "pin"
    pin.touch(mode=0o600)
    pin.write_text(f"{token.pin}\n")
    places = {
        "/opt/vendor/lib/libpkcs11.so": str(token.module),
        "0123456789": token.serial,
        "/etc/hsmkms/pin": str(pin),
        "/var/lib/hsmkms": str(site.folder / "data"),
    }
    return Reader(places=places, environment=token.environment)


def with_nss(_site: Site, _tour: Site) -> Reader:
    """A machine with certutil and a new NSS softokn, whose other libraries the loader finds."""
    folder = Path(os.environ.get(FOLDER_VARIABLE, "/usr/lib/x86_64-linux-gnu"))
    module = folder / "libsoftokn3.so"
    version = re.search(rb"Version: NSS (\d+)\.(\d+)", module.read_bytes()) if module.is_file() else None
    if shutil.which("certutil") is None or version is None or (int(version[1]), int(version[2])) < POST_QUANTUM_NSS:
        pytest.skip(f"needs certutil (libnss3-tools), and NSS 3.131 or newer in the folder named in {FOLDER_VARIABLE}")
    environment = {"LD_LIBRARY_PATH": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}
    return Reader(places={"/usr/lib/x86_64-linux-gnu/libsoftokn3.so": str(module)}, environment=environment)


def with_quick_imports(site: Site, tour: Site) -> Reader:
    """The tour's installation; wrapping keys have 2048 bits: generating one of 4096 takes ten times as long."""
    quick = {"RSA_4096": "RSA_2048", "hsmkms import-key ": "hsmkms import-key --wrapping-key-spec RSA_2048 "}
    return Reader(places=quick, environment=installed(site, tour).environment)


def _free_port() -> dict[str, str]:
    """Return a free port that takes the place of the port of the pages."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"8443": str(probe.getsockname()[1])}


def _own_servers(site: Site) -> dict[str, str]:
    """A PATH whose `hsmkms serve` is the installed script, and whose other commands are quick."""
    script = site.folder / "bin" / "hsmkms"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\ncase $1 in serve) exec {BIN}/hsmkms "$@" ;; esac\nexec {warm.folder()}/hsmkms "$@"\n'
    )
    script.chmod(0o700)
    return {"PATH": f"{script.parent}:{BIN}:{os.environ['PATH']}"}


def at_a_database(site: Site, tour: Site) -> Reader:
    """A token with its PIN file, as above; the page's database is a variable of the shell."""
    token = at_an_hsm(site, tour)
    places = {
        "/home/alice": str(site.folder),
        "/usr/lib/softhsm/libsofthsm2.so": token.places["/opt/vendor/lib/libpkcs11.so"],
    }
    environment = {**token.environment, **_own_servers(site)}
    return Reader(places={**token.places, **places, **_free_port()}, environment=environment)


PREPARATIONS: Final[Mapping[str, Callable[[Site, Site], Reader]]] = {
    "README": toured,
    "bad-days": on_a_bad_day,
    "endpoint": served,
    "hsm": at_an_hsm,
    "import": with_quick_imports,
    "monitoring": served,
    "nodes": at_a_database,
    "nss": with_nss,
    "programs": served,
}
"""Pages for which more, or less, than the tour's installation is there."""


@pytest.mark.parametrize(
    "page", [page for page in pages.PAGES if pages.steps(page.read_text())], ids=lambda page: page.stem
)
def test_page_runs_as_printed(bare: Site, tour: Site, page: Path, request: pytest.FixtureRequest) -> None:
    """Each command ends as the page says and prints what it shows."""
    steps = pages.steps(page.read_text())
    commands = "\n".join(step.command for step in steps)
    needed = [tool for tool in TOOLS if re.search(rf"(?m)(?:^|[|&(] *){tool} ", commands)]
    assert [tool for tool in needed if shutil.which(tool) is None] == [], "scripts/test installs these"
    reader = PREPARATIONS.get(page.stem, installed)(bare, tour)
    store = {"STORE": request.getfixturevalue("url")} if "$STORE" in commands else {}
    printed = pages.run(bare, steps, reader.places, {**reader.environment, **store})
    assert len(printed) == len(steps), (steps[len(printed)].command, printed[-1:])
    for step, done in zip(steps, printed, strict=True):
        ends_as_told = done.status != 0 if step.status is None else done.status == step.status
        assert ends_as_told, (step.command, done)
        assert pages.fits(step.output, done.lines), (step.command, pages.constant(step.output), done.lines)


def test_readers_are_told_what_to_install() -> None:
    """The README names the Debian packages of all tools that the pages use; scripts/test installs them."""
    installing = "sudo apt-get install (.*)"
    (packages,) = re.findall(installing, pages.section(pages.README.read_text(), "The guide"))
    assert packages.split() == sorted(set(TOOLS.values()))
    installed_by_tests = (pages.ROOT / "scripts/test").read_text()
    assert [each for each in packages.split() if f" {each} " not in installed_by_tests] == []


def test_every_preparation_is_for_a_page() -> None:
    """No preparation is left of a page that is gone."""
    assert set(PREPARATIONS) <= {page.stem for page in pages.PAGES}


ARN: Final = "arn:aws:kms:us-east-1:000000000000:key/"
TABLE: Final = [
    "┌───────┬──────┐",
    f"│ KeyId │ {ARN}b2d77691-b363-4c │",
    "│       │ 8b-8fd6-5009c1baed27 │",
    "└───────┴──────┘",
]
SAME: Final = [
    "┌─┬─┐",
    "│ KeyId │ arn:aws:kms:us-east-1:111122223333:key/0002 │",
    "│       │ 7691-b363-4c8b-8fd6-5009c1baed28 │",
    "└─┴─┘",
]


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        (TABLE, SAME, True),
        (TABLE, [line.replace("KeyId", "Arn") for line in SAME], False),
        (TABLE, [line.replace("us-east", "eu-west") for line in SAME], False),
        (TABLE, [*SAME, "and more"], False),
        (TABLE, [], False),
        (["a", "...", "b 7"], ["a", "x", "y", "b 12"], True),
        (["a", "...", "b"], ["a", "x"], False),
        (["True\tFalse"], ["True\tTrue"], False),
        (["Version 1 of 2026-11-30T08:00:00Z"], ["Version 2 of 2026-12-01T09:10:11Z"], True),
        ([], ["anything"], True),
    ],
)
def test_what_is_compared(shown: list[str], printed: list[str], fits: object) -> None:
    """Ids, dates, numbers and paths may differ, and where tables are folded; dots are any lines; all else counts."""
    assert pages.fits(shown, printed) is fits


def test_failures_are_seen(bare: Site) -> None:
    """Status and output of each command are its own, whatever ran before or runs beside it."""
    text = "```console\n$ echo one; false\n$ sleep 600 &\n$ place=two; echo $place PLACE\n$ test -t 1 && exit 3\n```\n"
    printed = pages.run(bare, pages.steps(text), {"PLACE": "here"}, {})
    assert [(each.lines, each.status) for each in printed] == [(["one"], 1), ([], 0), (["two here"], 0)]
