"""Nodes of a PostgreSQL database: a data folder that is none is refused, and how a node moves."""

import shutil
from collections.abc import Callable

import second_token
from cli_site import Site
from node_sites import node_of
from postgresql_cluster import Cluster, name_of

OTHER = "0123456789abcdef0123456789abcdef"


def stranger(first: Site) -> Site:
    """A data folder with the same configuration and token, that is no node. Its PIN is a wrong one."""
    copy = first.copy(first.folder.with_name(f"{first.folder.name}-second"))
    (copy.data / "node-id").write_text(f"{OTHER}\n")
    (copy.data / "pin").write_text("no PIN at all\n")
    (copy.data / "login.lock").unlink()
    shutil.rmtree(copy.data / "audit", ignore_errors=True)
    return copy


COMMANDS: dict[str, Callable[[Site], tuple[object, ...]]] = {
    "create-key": lambda _: ("create-key",),
    "encrypt": lambda _: ("encrypt", "--key-id", "alias/x", "--plaintext", "aGVsbG8="),
    "maintain": lambda _: ("maintain",),
    "reconcile": lambda _: ("reconcile",),
    "verify-store": lambda _: ("verify-store",),
    "accept-store": lambda _: ("accept-store", "--yes"),
    "migrate": lambda _: ("migrate",),
    "rotate-installation-keys": lambda _: ("rotate-installation-keys",),
    "create-access-key": lambda _: ("create-access-key", "--user-name", "x"),
    "audit verify": lambda _: ("audit", "verify"),
    "accept-clone": lambda _: ("accept-clone", "--token", "hsmkms", "--yes"),
    "migrate-token": lambda _: ("migrate-token", "--to", "hsmkms", "--yes"),
    "change-pin": lambda _: ("change-pin", "--generate"),
    "doctor --retry-pin": lambda _: ("doctor", "--retry-pin", "--yes"),
    "serve": lambda _: ("serve", "--port", "0"),
    "init": lambda site: ("init", "--data-dir", site.data),
    "init --config": lambda site: ("init", "--config", site.config),
}


def test_a_folder_that_is_no_node(first: Site, on_server: str) -> None:
    """Each command is refused before the PIN is sent, and names the nodes; nothing was changed for these."""
    second, owns = stranger(first), node_of(first)
    for name, arguments in COMMANDS.items():
        refused = second.run(*arguments(second))
        assert refused.status not in (0, 2), (name, refused)
        assert f"is no node of the PostgreSQL database {name_of(on_server)}" in refused.stderr, (name, refused)
        assert f"Registered: node {owns} (" in refused.stderr, (name, refused)
        assert OTHER in refused.stderr, name
        assert "Traceback" not in refused.stderr, name
    assert owns in second.run("doctor").stdout
    (second.data / "pin.new").touch(0o600)
    (second.data / "pin.new").write_text("of an interrupted change\n")
    assert owns in second.run("change-pin", "--generate").error
    (second.data / "pin.new").unlink()
    assert not (second.data / "login.lock").exists(), "a PIN was sent"
    (second.data / "node-id").write_text(owns)
    second.run("create-key")
    assert (second.data / "login.lock").exists(), "it would not be seen"
    (second.data / "node-id").unlink()
    assert "has no file node-id" in second.run("init", "--config", second.config).error
    assert not (second.data / "node-id").exists()
    fresh = second.folder / "fresh"
    options = ("--create-softhsm-token", "--store-url", on_server)
    assert f"already (node {owns} (" in second.run("init", "--data-dir", fresh, *options).error
    assert not fresh.exists()
    assert "refused the PIN" in first.run("create-key").error, "the copy that had this node's id has sent a wrong one"
    first.run("doctor", "--retry-pin", "--yes")
    assert first.run("create-key").status == 0
    assert first.run("verify-store").json == {"Faults": []}


def test_a_node_by_hand(first: Site, cluster: Cluster, on_server: str) -> None:
    """Whoever can write to the database still lets no other node in: the row's seal is verified as well."""
    first.new_key()
    second = stranger(first)
    (second.data / "pin").write_bytes((first.data / "pin").read_bytes())
    owns = (first.data / "node-id").read_text().strip()
    with cluster.connect(name_of(on_server)) as admin:
        admin.execute(f"UPDATE node SET id = '{OTHER}'".encode())
    assert "not as hsmkms wrote it" in second.run("create-key").stderr
    assert f"has the id {owns}, which is not registered" in first.run("create-key").error
    with cluster.connect(name_of(on_server)) as admin:
        admin.execute(f"UPDATE node SET id = '{owns}'".encode())
        admin.execute(f"INSERT INTO node VALUES ('{OTHER}', 'host', 'folder', 0)".encode())
    assert "not as hsmkms wrote it" in second.run("create-key").stderr


def test_a_copied_folder(first: Site) -> None:
    """A copy of the data folder is the same node, and goes on with its keys and its audit log."""
    key_id = first.new_key()
    moved = first.copy(first.folder.with_name(f"{first.folder.name}-moved"))
    shutil.rmtree(first.data)
    assert moved.run("describe-key", "--key-id", key_id).json["KeyMetadata"]["KeyId"] == key_id
    assert moved.run("audit", "verify").json["Faults"] == []


def test_a_lost_folder(first: Site) -> None:
    """With the node's id another folder is that node: as the guide says, and as the refusal says where to look."""
    key_id = first.new_key()
    sealed = first.run("encrypt", "--key-id", key_id, "--plaintext", "aGVsbG8=").json["CiphertextBlob"]
    second = stranger(first)
    owns, pin = ((first.data / name).read_bytes() for name in ("node-id", "pin"))
    shutil.rmtree(first.data)
    (second.data / "pin").write_bytes(pin)
    refused = second.run("describe-key", "--key-id", key_id).error
    assert "hsmkms guide nodes" in refused
    assert owns.decode().strip() in refused
    assert "> DATA_DIR/node-id" in second.run("guide", "nodes").stdout
    (second.data / "node-id").write_bytes(owns)
    lost = second.run("audit", "verify")
    assert lost.status == 1
    assert "the token remembers seal" in lost.stdout
    assert second.run("accept-store", "--yes").status == 0
    assert second.run("decrypt", "--ciphertext-blob", sealed).json["Plaintext"] == "aGVsbG8="
    assert second.run("audit", "verify").json["Faults"] == []


def test_a_lost_folder_and_removed_seals(first: Site, cluster: Cluster, on_server: str) -> None:
    """Without audit log the token still remembers that there were seals: rows are not sealed again as they are now."""
    key_id = first.new_key()
    second = stranger(first)
    for name in ("node-id", "pin"):
        (second.data / name).write_bytes((first.data / name).read_bytes())
    with cluster.connect(name_of(on_server)) as admin:
        admin.execute("DELETE FROM store_root; DELETE FROM row_seal; DELETE FROM seal_tree")
        admin.execute("UPDATE regional_key SET description = 'edited'")
    refused = second.run("describe-key", "--key-id", key_id)
    assert refused.status == 1
    assert "the seals of the control-plane database were removed" in refused.stderr
    with cluster.connect(name_of(on_server)) as admin:
        assert admin.execute("SELECT count(*) FROM row_seal").fetchone() == (0,)


def test_a_migration_that_a_node_would_not_follow(first: Site, cluster: Cluster, on_server: str) -> None:
    """It is refused before anything is changed, with the name of the node whose server does not reach the new token."""
    second_token.add(first.config)
    with cluster.connect(name_of(on_server)) as admin:
        admin.execute(
            f"INSERT INTO node_process SELECT '{OTHER}', '1-a',"
            " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, '0.0', 'meta_0009', 0, '[[\"hsmkms\", \"1\"]]'"
        )
    refused = first.run("migrate-token", "--to", second_token.LABEL, "--yes").error
    assert f"servers of other nodes cannot reach the token 'new hsm': node {OTHER}. Name it as a [[token]]" in refused
    assert [each["Home"] for each in first.run("list-tokens").json["Tokens"]] == [True, False]
    warned = first.run("rotate-installation-keys", "--purpose", "mac")
    assert warned.status == 0
    assert f"another version of hsmkms runs on node {OTHER}: upgrade these nodes soon" in warned.stderr
    with cluster.connect(name_of(on_server)) as admin:
        admin.execute('UPDATE node_process SET tokens = \'[["new hsm", "1"]]\', seen_at = seen_at - 16000000')
    assert first.run("migrate-token", "--to", second_token.LABEL, "--yes").status == 0
