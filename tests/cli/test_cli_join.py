"""How a further node joins an installation on a PostgreSQL database."""

import shutil
from pathlib import Path

from cli_site import REGION, Site
from node_sites import Joining, answer, node_of
from postgresql_cluster import Cluster


def test_a_node_joins(first: Site, place: Site, joining: Joining) -> None:
    """Both nodes work on the same keys; the audit log of the new one says that it joined."""
    key_id = first.new_key()
    sealed = first.run("encrypt", "--key-id", key_id, "--plaintext", "aGVsbG8=").json["CiphertextBlob"]
    joined = joining.run(place).json
    assert joined["Node"] == node_of(place) != node_of(first)
    assert [each["Node"] for each in joined["Nodes"]] == [node_of(first), node_of(place)]
    assert joined["Nodes"][1]["Folder"] == str(place.data)
    assert answer(place.run("decrypt", "--ciphertext-blob", sealed))["Plaintext"] == "aGVsbG8="
    made = answer(place.run("create-key"))["KeyMetadata"]["KeyId"]
    assert first.run("describe-key", "--key-id", made).json["KeyMetadata"]["KeyId"] == made
    for site in (first, place):
        assert answer(site.run("verify-store")) == {"Faults": []}
    (recorded,) = answer(place.run("audit", "tail", "--event-name", "JoinNode"))["Records"]
    assert recorded["requestParameters"]["node"] == node_of(place)
    assert {each.name for each in place.data.iterdir()} >= {"hsmkms.toml", "node-id"}
    assert not (place.data / ".join-unfinished").exists()


def test_a_node_that_cannot_join(first: Site, place: Site, joining: Joining, cluster: Cluster) -> None:
    """It is refused with what to do, before the PIN is sent; nothing was made."""
    with cluster.database() as empty:
        assert "make the first node with `hsmkms init`" in joining.run(place, store_url=empty).error
    assert "has one node" in joining.run(place, store_url=None).error
    assert "store.url must begin with postgresql+psycopg://" in joining.run(place, store_url="sqlite:///x").error
    assert "missing --pin-file: there is no terminal" in joining.run(place, pin_file=None).stderr
    assert not place.data.exists()
    first.new_key("--region", "us-east-1")
    assert "has keys in us-east-1, which this node would not serve" in joining.run(place, region=REGION).error
    assert not place.data.exists()
    place.data.mkdir(mode=0o700)
    (place.data / "something").touch()
    assert "is not empty" in joining.run(place).error
    assert f"{first.data} has a hsmkms.toml already" in joining.run(first).error
    assert f"hsmkms --config {first.config} list-nodes` says so" in joining.run(first).error
    assert [each.name for each in place.data.iterdir()] == ["something"]


def test_another_token_joins_nothing(first: Site, place: Site, joining: Joining, tmp_path: Path) -> None:
    """It does not answer the challenge, so the folder is no node; the same command with the right one continues."""
    other = Site(folder=tmp_path)
    other.run("init", "--data-dir", other.data, "--create-softhsm-token")
    environment = f"SOFTHSM2_CONF={other.data / 'softhsm/softhsm2.conf'}"
    refused = joining.run(place, environment=environment, pin_file=other.data / "pin").error
    assert "does not hold its key" in refused
    assert not place.config.exists()
    assert "interrupted" in (place.data / ".join-unfinished").read_text()
    begun = node_of(place) if (place.data / "node-id").exists() else None
    joined = joining.run(place).json
    assert [each["Node"] for each in joined["Nodes"]] == [node_of(first), node_of(place)]
    assert begun in (None, joined["Node"])


def test_a_join_that_was_interrupted(first: Site, place: Site, joining: Joining) -> None:
    """After the registration, before its configuration was written: the same command registers no second node."""
    joining.run(place)
    place.config.unlink()
    (place.data / ".join-unfinished").touch(0o600)
    assert "there is no configuration" in place.run("create-key").error
    joined = joining.run(place).json
    assert [each["Node"] for each in joined["Nodes"]] == [node_of(first), node_of(place)]
    assert place.run("create-key").status == 0


def test_a_wrong_pin_joins_nothing(first: Site, place: Site, joining: Joining, tmp_path: Path) -> None:
    """What is to be done is possible without a configuration: `hsmkms doctor` is not, and the folder need only go."""
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("0000\n")
    refused = joining.run(place, pin_file=wrong).error
    assert "refused the PIN" in refused
    assert f"no configuration for `hsmkms doctor` yet: instead correct {wrong}, remove {place.data}, and" in refused
    shutil.rmtree(place.data)
    assert [each["Node"] for each in answer(joining.run(place))["Nodes"]] == [node_of(first), node_of(place)]
