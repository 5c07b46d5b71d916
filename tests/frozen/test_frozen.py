"""Installations of every schema that there ever was: they migrate and work, and what they encrypted decrypts for ever.

Each folder was made by the program of its time: databases as SQL, token, PIN and audit log as they were, and what must
come out. The PINs are of these tokens alone. A folder is never changed; a new revision of meta.db gets a new one.
"""

import base64
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import warm
from cli_site import SECONDS, Site

from hsmkms.config import settings as config
from hsmkms.rules import blob
from hsmkms.store import migrate
from hsmkms.store.files import META
from hsmkms.wiring import databases

HERE = Path(__file__).parent
FROZEN = sorted(each.name for each in HERE.glob("meta_*"))


@pytest.fixture(params=FROZEN)
def thawed(request: pytest.FixtureRequest, scratch: Path) -> Site:
    """One of them, in a folder of its own."""
    folder = scratch / f"{request.node.originalname}-{request.param}"
    shutil.copytree(HERE / request.param, folder)
    site = Site(folder=folder)
    for each in site.data.rglob("*"):
        each.chmod(0o700 if each.is_dir() else 0o600)
    for each in (site.config, site.data / "softhsm/softhsm2.conf"):
        each.write_text(each.read_text().replace("@FOLDER@", str(folder)))
    for name in ("meta", "log"):
        path = site.data / f"{name}.db"
        path.touch(0o600)
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript((folder / f"{name}.sql").read_text())
    return site


def test_every_revision_is_kept() -> None:
    """Each revision of meta.db has its installation here, but for the newest, which all other tests use."""
    assert set(META.revisions[:-1]) <= set(FROZEN)


def test_it_works(thawed: Site) -> None:
    """Migrated, every ciphertext opens; aliases, states and users are as they were; nothing differs."""
    parsed = json.loads((thawed.folder / "expected.json").read_text())
    databases.migrate_databases(config.load(thawed.config))
    arguments = [str(thawed.config), str(thawed.folder / "expected.json")]
    done = warm.run_program(HERE / "programs/look.py", arguments, thawed.environment(), SECONDS)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {
        "opened": [ciphertext["plaintext"] for ciphertext in parsed["ciphertexts"]],
        "aliases": parsed["aliases"],
        "disabled": ["DisabledException" for _ in parsed["disabled"]],
        "users": parsed["users"],
        "differences": 0,
        "faults": 0,
    }


@pytest.mark.parametrize("thawed", ["meta_0007", "meta_0008"], indirect=True)
def test_an_edit_of_before_is_not_sealed(thawed: Site) -> None:
    """Rows that were edited before the upgrade are not sealed in the new form: each is named, and all are refused."""
    (disabled,) = json.loads((thawed.folder / "expected.json").read_text())["disabled"]
    with closing(sqlite3.connect(thawed.data / "meta.db")) as connection, connection:
        connection.execute("UPDATE regional_key SET state = 'Enabled' WHERE key_id = ?", (disabled,))
    databases.migrate_databases(config.load(thawed.config))
    done = warm.run_program(HERE / "programs/verify.py", [str(thawed.config), disabled], thawed.environment(), SECONDS)
    assert (done.returncode, done.stderr.count(b"verify-store")) == (0, 1)
    found = json.loads(done.stdout)
    assert f"key/{disabled}" in found.pop("faults")
    assert found == {"state": "KMSInternalException", "accepted": [], "then": "Enabled"}


@pytest.mark.parametrize("thawed", ["meta_0008"], indirect=True)
def test_an_interrupted_migration_goes_on(thawed: Site) -> None:
    """Tables that were migrated without sealing the rows again are sealed by the next `migrate`, in the audit log."""
    assert migrate.upgrade(thawed.data) == ["meta_0009"]
    rows = "SELECT count(subject) FROM row_seal WHERE subject = 'schema'"
    with closing(sqlite3.connect(thawed.data / "meta.db")) as connection:
        assert connection.execute(rows).fetchone() == (0,)
        assert thawed.run("migrate").json["Applied"] == []
        assert connection.execute(rows).fetchone() == (1,)
    logged = b"".join(path.read_bytes() for path in (thawed.data / "audit").glob("lane-*.jsonl"))
    assert logged.count(b'"SealStore"') == 1
    assert thawed.run("verify-store").json["Faults"] == []


@pytest.mark.parametrize("name", FROZEN)
def test_blobs_are_parsed_for_ever(name: str) -> None:
    """The bytes of a ciphertext keep their meaning: header, IV and body are found where they were."""
    for ciphertext in json.loads((HERE / name / "expected.json").read_text())["ciphertexts"]:
        data = base64.b64decode(ciphertext["blob"])
        parsed = blob.parse(data)
        assert (data[:6], parsed.key_id) == (b"hkms\x01\x01", ciphertext["key"])
        assert blob.assemble(parsed.header, parsed.iv, parsed.body) == data
        assert len(parsed.body) == len(ciphertext["plaintext"]) + 16
        assert blob.header(parsed.key_id, parsed.material_id) == data[:75]
