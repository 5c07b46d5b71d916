"""An installation whose database is on a PostgreSQL server."""

import base64
import shutil

from cli_site import Site
from postgresql_cluster import Cluster, name_of


def test_a_life_on_postgresql(bare: Site, url: str, cluster: Cluster) -> None:
    """Init makes it once, all commands work on it, and what was changed behind hsmkms's back is named."""
    options = ("--create-softhsm-token", "--store-url", url)
    made = bare.run("init", "--data-dir", bare.data, *options).json
    assert made["Databases"] == [f"the PostgreSQL database {name_of(url)} on {cluster.folder}"]
    assert not list(bare.data.glob("*.db"))
    assert "holds an installation already" in bare.run("init", "--data-dir", bare.data, *options).error
    assert "name an empty one" in bare.run("init", "--data-dir", bare.folder / "other", *options).error

    key_id = bare.new_key()
    assert bare.run("create-alias", "--alias-name", "alias/x", "--target-key-id", key_id).status == 0
    plaintext = base64.b64encode(b"hello").decode()
    sealed = bare.run("encrypt", "--key-id", "alias/x", "--plaintext", plaintext).json["CiphertextBlob"]
    (bare.folder / "blob").write_bytes(base64.b64decode(sealed))
    assert bare.run("decrypt", "--ciphertext-blob", "fileb://blob").json["Plaintext"] == plaintext
    assert bare.run("migrate").json["Applied"] == []
    assert bare.run("verify-store").json == {"Faults": []}
    assert bare.run("reconcile").json["Findings"] == []
    assert bare.run("audit", "verify").json["Faults"] == []
    assert bare.run("maintain").status == 0

    with cluster.connect(name_of(url)) as admin:
        admin.execute("UPDATE alias SET name = 'alias/y'")
    found = bare.run("verify-store")
    assert found.status == 1
    assert "alias/us-east-1/alias/y" in found.stdout


def test_backup_and_restore(first: Site, on_server: str, cluster: Cluster) -> None:
    """A backup of a server's database is restored to an empty one, and not over one that is there."""
    key_id = first.new_key()
    sealed = first.run("encrypt", "--key-id", key_id, "--plaintext", "aGVsbG8=").json["CiphertextBlob"]
    file = first.folder / "backup"
    first.run("backup", file)
    assert "is one of hsmkms already" in first.run("restore", file).error
    first.run("migrate-store", "--to", "sqlite")  # so that nothing of the database is needed
    shutil.rmtree(first.data / "audit")
    with cluster.database() as url:
        first.config.write_text(first.config.read_text().replace(on_server, url))
        assert first.run("restore", file, "--accept-rollback").status == 0
        assert first.run("decrypt", "--ciphertext-blob", sealed).json["Plaintext"] == "aGVsbG8="
        assert first.run("verify-store").json == {"Faults": []}
        assert first.run("audit", "verify").json["Faults"] == []
    assert "own tools" in first.run("renew-log").error


def test_a_server_that_is_away(bare: Site, cluster: Cluster) -> None:
    """Nothing is made in the folder before the database answers, and no password comes into a message."""
    password = bare.folder / "password"
    password.touch(0o600)
    password.write_text("hunter2\n")
    wrong = cluster.url("missing")
    options = ("--create-softhsm-token", "--store-url", wrong, "--store-password-file", password)
    failed = bare.run("init", "--data-dir", bare.data, *options)
    assert "cannot be connected to" in failed.stderr
    assert "hunter2" not in failed.stderr
    assert not (bare.data / "hsmkms.toml").exists()
    holding = wrong.replace("hsmkms@", "hsmkms:hunter2@")
    refused = bare.run("init", "--data-dir", bare.data, "--create-softhsm-token", "--store-url", holding).error
    assert "must not hold a password" in refused
    assert "hunter2" not in refused
