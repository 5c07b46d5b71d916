"""Every command of the README and of the guide, run as it is printed, does what the page says."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pages
import pytest
import second_token
from cli_site import BIN, Site
from devices import SoftHsm

from hsmkms.hsm import softhsm

Preparation = Callable[[Site], tuple[dict[str, str], dict[str, str]]]
"""Makes what a page takes for granted. Places (what stands in the page: what is here), and the environment."""

REGIONS = ("--region", "us-east-1", "--region", "eu-west-1")


def installed(site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """The installation of the README's tour, with its key, its user and a file."""
    data = site.folder / "hsmkms-data"
    config = {"HSMKMS_CONFIG": str(data / "hsmkms.toml")}
    assert site.run("init", "--data-dir", data, "--create-softhsm-token", *REGIONS).status == 0
    key = site.run("create-key", "--description", "holiday photos", **config).json["KeyMetadata"]["KeyId"]
    assert site.run("create-alias", "--alias-name", "photos", "--target-key-id", key, **config).status == 0
    (site.folder / "secret.txt").write_text("a secret of ours\n")
    (site.folder / "conf").symlink_to(pages.ROOT / "conf")
    return {"8443": str(free_port())}, config


def served(site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """The same for a page that starts servers: they must be the processes that the shell knows (see warm.py)."""
    places, environment = installed(site)
    return places, environment | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def backed_up(site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """The same with a folder for backups."""
    places, environment = installed(site)
    (site.folder / "backup").mkdir(mode=0o700)
    return places | {"/mnt/backup": str(site.folder / "backup")}, environment


def on_a_bad_day(site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """The same with the backup and the operator's key that the page of operations makes."""
    places, environment = backed_up(site)
    making = [each for each in pages.commands((pages.GUIDE / "operations.md").read_text()) if "operator.txt" in each]
    assert len(making) == 2
    done = pages.run(site, [pages.Step(command=each.replace(" --signing-key signing.pem", ""), output=[], status=0) for each in making], places, **environment)
    assert [each.status for each in done] == [0, 0], done
    return places, environment


def at_an_hsm(site: Site) -> tuple[dict[str, str], dict[str, str]]:
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
    return places, token.environment


def with_two_tokens(site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """The tour's installation with a second token in its configuration."""
    places, environment = installed(site)
    second_token.add(Path(environment["HSMKMS_CONFIG"]), label="new-hsm")
    return places, environment


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


PREPARATIONS: dict[str, Preparation] = {
    "bad-days": on_a_bad_day,
    "endpoint": served,
    "monitoring": served,
    "hsm": at_an_hsm,
    "move-hsm": with_two_tokens,
    "operations": backed_up,
}


def prepare(name: str, site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """What a page takes for granted."""
    return PREPARATIONS.get(name, installed)(site)
