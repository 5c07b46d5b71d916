"""A damaged or lost log.db: it is named, renewed on request, and no key encrypts with an unknown count."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_site import Site, damage

from hsmkms.store.sqlite import log_renewal


def corrupt(site: Site) -> None:
    """The pages after the first are rubbish."""
    damage(site.data / "log.db")


def replace(site: Site) -> None:
    """It is something else."""
    (site.data / "log.db").write_bytes(b"dear diary, " * 1000)


def lose(site: Site) -> None:
    """It is gone."""
    (site.data / "log.db").unlink()


def encrypted(site: Site, key_id: str) -> str:
    """A ciphertext."""
    return str(site.run("encrypt", "--key-id", key_id, "--plaintext", "cGhvdG8=").json["CiphertextBlob"])


def material(site: Site, sealed: str) -> str:
    """The key material that opens a ciphertext."""
    answer = site.run("decrypt", "--ciphertext-blob", sealed).json
    assert answer["Plaintext"] == "cGhvdG8="
    return str(answer["KeyMaterialId"])


@pytest.mark.parametrize("fault", [corrupt, replace, lose])
def test_renewed(site: Site, fault: Callable[[Site], None]) -> None:
    """Commands say what to do; afterwards all works, and the key has new material before it encrypts next."""
    key_id = site.new_key()
    sealed = encrypted(site, key_id)
    fault(site)
    refused = site.run("encrypt", "--key-id", key_id, "--plaintext", "cGhvdG8=").error
    assert refused.startswith("StoreError: ")
    assert "log.db" in refused
    assert "run `hsmkms renew-log`" in refused
    assert "run `hsmkms renew-log`" in site.run("doctor").stdout
    answer = site.run("renew-log").json
    assert (answer["Kept"] is None) == (fault is lose)
    assert answer["Kept"] is None or Path(answer["Kept"]).is_file()
    again = encrypted(site, key_id)
    assert material(site, sealed) != material(site, again)
    assert material(site, encrypted(site, key_id)) == material(site, again)
    assert site.run("doctor").status == 0
    assert site.run("audit", "export", "--event-name", "RenewLog").stdout.count("\n") == 1


def test_left_alone(site: Site) -> None:
    """One that is whole is not touched."""
    assert "is whole" in site.run("renew-log").error


def test_killed_before_the_control_plane_was_changed(site: Site) -> None:
    """The process that opens the installation next reports the renewal."""
    key_id = site.new_key()
    sealed = encrypted(site, key_id)
    corrupt(site)
    log_renewal.renew(site.data, datetime.now(UTC))
    assert material(site, encrypted(site, key_id)) != material(site, sealed)
