"""Workers of this program run beside a program with the next schema, and take only what it announced for its own."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import next_version
import pytest
from botocore.exceptions import ClientError
from cli_site import Site
from conftest import NewSite
from msgspec import Struct
from served import Served, credentials, serving
from waiting import until

from hsmkms.service.runtime import open_processes

pytestmark = pytest.mark.xdist_group("next_schema")

WRITE = """
import json, sys
from pathlib import Path
from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.store import schema
from hsmkms.wiring import core as wiring
with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:
    key, core = sys.argv[2], kms._core
    with core.audit.acting("NextVersion", "eu-central-1"), core.store.atomic() as tx:
        tx.execute(schema.regional_key.update().where(schema.regional_key.c.key_id == key).values(colour="red"))
        tx.execute(schema.key_note.insert().values(key_id=key, note="of the next version", loud=True))
    faults = [fault.subject for fault in kms.operator.audit.verify_rows()]
print(json.dumps(faults))
"""
VERIFY = """
import json, sys
from pathlib import Path
from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.wiring import core as wiring
with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:
    print(json.dumps([f"{fault.subject}: {fault.reason}" for fault in kms.operator.audit.verify_rows()]))
"""
SCHEMA = """
import json, sys
from pathlib import Path
from hsmkms.config import settings as config
from hsmkms.errors import StoreError
from hsmkms.kms import Kms
from hsmkms.wiring import core as wiring
with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:
    try:
        kms._core.seals.require_schema()
    except StoreError as exc:
        print(json.dumps(str(exc)))
"""


class Rolling(Struct):
    """An installation that a server of this program serves, and the next program."""

    site: Site
    server: Served
    program: Path
    kms: Any

    def migrate(self) -> Any:  # noqa: ANN401 - JSON
        """Migrate by the next program."""
        return self.site.run("migrate", "--output", "json", PYTHONPATH=str(self.program)).json

    def sql(self, script: str) -> None:
        """Edit the database with a tool."""
        with closing(sqlite3.connect(self.site.data / "meta.db", isolation_level=None)) as connection:
            for name in ("hsmkms_seals", "hsmkms_seal_sets"):
                connection.create_function(name, 0, lambda: None)
            connection.executescript(script)

    def refusal(self, key_id: str) -> str:
        """The code with which a request about a key is refused; '' if it is not."""
        try:
            self.kms.disable_key(KeyId=key_id)
            self.kms.enable_key(KeyId=key_id)
        except ClientError as exc:
            return str(exc.response["Error"]["Code"])
        return ""

    def next_faults(self) -> Any:  # noqa: ANN401 - JSON
        """What verifying by the next program names."""
        return next_version.run(self.program, self.site, VERIFY)


@pytest.fixture
def rolling(new_site: NewSite, next_program: Path) -> Iterator[Rolling]:
    """A server of this program, whose databases no other one has seen yet."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    with serving(site, "--workers", 2) as server:
        yield Rolling(site, server, next_program, server.endpoint(root).client())


def test_workers_beside_the_next_schema(rolling: Rolling) -> None:
    """Both programs read, change and verify what the other one writes; a worker that dies is replaced."""
    kms, site, server = rolling.kms, rolling.site, rolling.server
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    sealed = kms.encrypt(KeyId=key_id, Plaintext=b"before")["CiphertextBlob"]
    migrated = rolling.migrate()
    assert migrated["Applied"] == [next_version.LOG, next_version.META]
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"before"
    assert next_version.run(rolling.program, site, WRITE, key_id) == []

    assert rolling.refusal(key_id) == ""
    kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": "a", "TagValue": "b"}])
    other = kms.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"before"
    assert rolling.next_faults() == []
    assert site.run("verify-store").json["Faults"] == []

    before = server.workers()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    until(lambda: len(server.workers() - before) == len(before))
    until(server.listens)
    kms.rotate_key_on_demand(KeyId=key_id)
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"before"
    assert rolling.refusal(other) == ""

    rotated = site.run("rotate-installation-keys", "--yes")  # which seals every row again, by this program
    assert rotated.status == 0, rotated
    assert rolling.next_faults() == []
    with closing(sqlite3.connect(site.data / "meta.db")) as connection:
        kept = connection.execute(
            "SELECT colour, note, loud FROM regional_key JOIN key_note USING (key_id) WHERE key_id = ?", (key_id,)
        )
        assert kept.fetchall() == [("red", "of the next version", 1)]
    assert site.run("migrate", "--output", "json").json["Applied"] == []
    assert "not as hsmkms" not in server.log_text
    assert "something other than hsmkms" not in server.log_text


def test_what_nobody_announced(rolling: Rolling) -> None:
    """After a migration as before it, what no program announced is tampering, whatever the file says of itself."""
    key_id = rolling.kms.create_key()["KeyMetadata"]["KeyId"]
    rolling.migrate()
    assert rolling.refusal(key_id) == ""
    for plant, remove in (
        ("CREATE TABLE evil (x)", "DROP TABLE evil"),
        ("CREATE INDEX evil ON key_note (loud)", "DROP INDEX evil"),
        (
            "CREATE TRIGGER evil AFTER INSERT ON key_note BEGIN DELETE FROM tag; END",
            "DROP TRIGGER evil",
        ),
        ("DROP INDEX ix_key_note_note", "CREATE INDEX ix_key_note_note ON key_note (note)"),
    ):
        rolling.sql(plant)
        assert rolling.refusal(key_id) == "KMSInternalException", plant
        rolling.sql(remove)
        assert rolling.refusal(key_id) == "", remove
    # An announcement that was not sealed: the schema fits it, but it counts for nothing.
    rolling.sql(
        "INSERT INTO schema_announcement SELECT 'meta_9999', works_with, replace(content, 'ix_key_note_note', 'evil') "
        f"FROM schema_announcement WHERE revision = '{next_version.META}';"
        "DROP INDEX ix_key_note_note; CREATE INDEX evil ON key_note (note);"
    )
    assert rolling.refusal(key_id) == "KMSInternalException"
    assert any(fault.startswith("schema: ") for fault in rolling.next_faults())
    # The schema of before was announced too, but it is not the one of the next program.
    rolling.sql(
        "DELETE FROM schema_announcement WHERE revision = 'meta_9999'; DROP INDEX evil; DROP TABLE key_note;"
        "ALTER TABLE regional_key DROP COLUMN colour;"
    )
    assert "table 'key_note' was removed" in next_version.run(rolling.program, rolling.site, SCHEMA)
    assert rolling.refusal(key_id) == ""


def test_a_migration_that_nobody_announced(rolling: Rolling) -> None:
    """Without its token nothing is migrated while a server runs: its workers would take it for tampering."""
    site = rolling.site
    rolling.kms.list_keys()  # a worker has opened the installation
    hidden = site.data / "softhsm.away"
    (site.data / "softhsm").rename(hidden)
    refused = site.run("migrate", PYTHONPATH=str(rolling.program))
    hidden.rename(site.data / "softhsm")
    assert "nothing was migrated: running processes" in refused.error
    assert site.run("migrate", "--output", "json").json["Revisions"]["meta.db"] != next_version.META


def test_a_migration_with_edited_announcements(new_site: NewSite, next_program: Path) -> None:
    """Where announcements were edited, a migration cannot be announced: it waits until no server runs, then works."""
    site = new_site()
    edit = "UPDATE schema_announcement SET works_with = 'meta_0001'"
    with serving(site):
        until(lambda: open_processes.living(site.data) != [])
        with closing(sqlite3.connect(site.data / "meta.db")) as connection, connection:
            connection.execute(edit)
        refused = site.run("migrate", PYTHONPATH=str(next_program))
        assert "nothing was migrated: running processes" in refused.stderr
        assert "former announcements were edited" in refused.stderr
    migrated = site.run("migrate", "--output", "json", PYTHONPATH=str(next_program))
    assert json.loads(migrated.stdout)["Applied"] == [next_version.LOG, next_version.META]
    assert "the migration is not announced" in migrated.stderr
    assert [fault.partition(":")[0] for fault in next_version.run(next_program, site, VERIFY)] == ["schema"]
    assert site.run("accept-store", "--yes", PYTHONPATH=str(next_program)).status == 0
    assert next_version.run(next_program, site, VERIFY) == []
    assert site.run("verify-store").json["Faults"] == []
