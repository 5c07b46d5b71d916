"""A rolling upgrade over nodes: one serves by this program, another one by that of the next schema, under load."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import next_version
import pytest
from botocore.exceptions import ClientError
from cli_site import ACCOUNT, REGION, Site
from node_sites import Joining, answer
from postgresql_cluster import Cluster
from served import Served, credentials, serving, until

pytestmark = pytest.mark.xdist_group("next_schema")

VERIFY = """
import json, sys
from pathlib import Path
from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.wiring import core as wiring
with Kms(wiring.core_of(config.load(Path(sys.argv[1])))) as kms:
    print(json.dumps([f"{fault.subject}: {fault.reason}" for fault in kms.operator.audit.verify_rows()]))
"""


@pytest.fixture
def nodes(tmp_path: Path, cluster: Cluster) -> Iterator[tuple[Site, Site]]:
    """Two nodes of a new installation, made by this program."""
    with cluster.database() as url:
        first, second = (Site(folder=tmp_path, name=name) for name in ("node-1", "node-2"))
        where = ("--data-dir", first.data, "--account-id", ACCOUNT, "--region", REGION)
        made = first.run("init", "--create-softhsm-token", *where, "--store-url", url)
        assert made.status == 0, made
        joined = Joining(first, url).run(second, region=REGION)
        assert joined.status == 0, joined
        yield first, second


class Load:
    """Encrypts by one node and decrypts by another one, again and again; an error of either ends it."""

    def __init__(self, encrypting: Any, decrypting: Any, key_id: str) -> None:  # noqa: ANN401 - clients of botocore
        self.done = 0
        self._clients = (encrypting, decrypting)
        self._key_id = key_id
        self._ends = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def passes(self) -> bool:
        """Wait until ten more requests are answered; whether none has failed."""
        until_done = self.done + 10
        until(lambda: self.done >= until_done or bool(self._errors))
        return not self._errors

    def _run(self) -> None:
        encrypting, decrypting = self._clients
        try:
            while not self._ends.is_set():
                text = b"number %d" % self.done
                sealed = encrypting.encrypt(KeyId=self._key_id, Plaintext=text)["CiphertextBlob"]
                assert decrypting.decrypt(CiphertextBlob=sealed)["Plaintext"] == text
                self.done += 1
        except (AssertionError, ClientError) as exc:
            self._errors.append(exc)


def refused(kms: Any, key_id: str) -> bool:  # noqa: ANN401 - a client of botocore
    """Whether a key is refused because it is disabled."""
    try:
        kms.encrypt(KeyId=key_id, Plaintext=b"hello")
    except ClientError as exc:
        return bool(exc.response["Error"]["Code"] == "DisabledException")
    return False


def exchange(older: Any, newer: Any) -> None:  # noqa: ANN401 - clients of botocore
    """What either program makes, rotates and disables counts for the other one."""
    for maker, user in ((older, newer), (newer, older)):
        key_id = maker.create_key()["KeyMetadata"]["KeyId"]
        sealed = user.encrypt(KeyId=key_id, Plaintext=b"by the other one")["CiphertextBlob"]
        user.rotate_key_on_demand(KeyId=key_id)
        assert maker.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"by the other one"
        until(lambda maker=maker, key_id=key_id: len(maker.list_key_rotations(KeyId=key_id)["Rotations"]) == 1)
        user.disable_key(KeyId=key_id)
        until(lambda maker=maker, key_id=key_id: refused(maker, key_id))


def test_nodes_of_two_versions(nodes: tuple[Site, Site], next_program: Path) -> None:
    """A node migrates the database and is upgraded while the other one serves, which then does the same."""
    program = str(next_program)
    first, second = nodes
    (key,) = credentials(first, ("create_access_key", {"user_name": None}))

    def client(server: Served) -> Any:  # noqa: ANN401 - a client of botocore
        return server.endpoint(key).client()

    with ExitStack() as stack:
        older = stack.enter_context(serving(first, "--workers", 1))
        replaced = stack.enter_context(serving(second, "--workers", 1))
        key_id = client(older).create_key()["KeyMetadata"]["KeyId"]
        with Load(client(older), client(replaced), key_id) as load:
            assert load.passes()
            migrated = second.run("migrate", PYTHONPATH=program)
            assert answer(migrated)["Applied"] == [next_version.LOG, next_version.META]
            assert "upgrade these next" in migrated.stderr  # and names the node that serves by this program
            assert load.passes()
        replaced.stop()
        newer = stack.enter_context(serving(second, "--workers", 1, PYTHONPATH=program))
        with Load(client(older), client(newer), key_id) as load:
            assert load.passes()
            exchange(client(older), client(newer))
            assert load.passes()
        assert next_version.run(next_program, second, VERIFY) == []
        assert answer(first.run("verify-store")) == {"Faults": []}
        older.stop()
        upgraded = stack.enter_context(serving(first, "--workers", 1, PYTHONPATH=program))
        exchange(client(upgraded), client(newer))
        for server in (older, replaced, newer, upgraded):
            assert "Traceback" not in server.log_text, server.log_text
