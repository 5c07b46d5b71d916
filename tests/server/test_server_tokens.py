"""A migration to another token while a server runs."""

import json
import threading
from typing import Any

import pytest
import second_token
from botocore.exceptions import ClientError
from conftest import NewSite
from served import credentials, serving

pytestmark = pytest.mark.xdist_group("served")


def test_migration_under_load(new_site: NewSite) -> None:
    """No request fails, old and new ciphertext decrypt in both workers, and new keys are made on the new token."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    second_token.add(site.config)
    with serving(site, "--workers", 2) as server:
        kms = server.endpoint(root).client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        sealed = [kms.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"]]
        stopped, faults = threading.Event(), list[str]()

        def load() -> None:
            own = server.endpoint(root).client()
            while not stopped.is_set():
                try:
                    sealed.append(own.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"])
                    own.decrypt(CiphertextBlob=sealed[0])
                except ClientError as exc:
                    faults.append(str(exc))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        migrated = site.run("migrate-token", "--to", second_token.LABEL, "--yes")
        stopped.set()
        for thread in threads:
            thread.join()
        assert migrated.status == 0, migrated
        assert json.loads(migrated.stdout)["Failures"] == []
        assert faults == []
        new = kms.encrypt(KeyId=key_id, Plaintext=b"new")["CiphertextBlob"]
        names = {material(kms, each) for each in (sealed[0], new)}
        assert len(names) == 2
        for _ in range(4):  # each with a connection of its own, so that both workers are asked
            other = server.endpoint(root).client()
            assert {other.decrypt(CiphertextBlob=ciphertext)["Plaintext"] for ciphertext in sealed[-3:]} == {b"old"}
            other.create_key()
        assert server.stop() == 0, server.log_text
    result = {token["Label"]: token["Objects"] for token in site.run("list-tokens").json["Tokens"]}
    assert result[second_token.LABEL] == 5


def material(kms: Any, ciphertext: bytes) -> str:  # noqa: ANN401 - boto3 makes its classes at run time
    """The key material that a ciphertext names."""
    name: str = kms.decrypt(CiphertextBlob=ciphertext)["KeyMaterialId"]
    return name
