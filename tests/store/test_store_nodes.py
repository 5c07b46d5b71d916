"""The nodes of a PostgreSQL database: the ids in their data folders, and the rows of the database."""

from pathlib import Path

import pytest
from sqlalchemy import text

from hsmkms.errors import StoreError
from hsmkms.store import node_id
from hsmkms.store.engine import Store
from hsmkms.store.postgresql import creation
from hsmkms.store.postgresql.target import Target

OTHER = "0123456789abcdef0123456789abcdef"


def test_an_id_is_made_once(tmp_path: Path) -> None:
    """It is random, and stays; nobody but its owner may write it."""
    assert node_id.read(tmp_path) is None
    made = node_id.read_or_make(tmp_path)
    assert node_id.read_or_make(tmp_path) == node_id.read(tmp_path) == made
    assert (tmp_path / node_id.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", OTHER[:-1].encode(), OTHER.upper().encode(), f"{OTHER}0".encode()]
)
def test_a_damaged_id(tmp_path: Path, content: bytes) -> None:
    """It is neither used nor replaced."""
    (tmp_path / node_id.FILE).write_bytes(content)
    for use in (node_id.read, node_id.read_or_make):
        with pytest.raises(StoreError, match="32 hex digits"):
            use(tmp_path)
    assert (tmp_path / node_id.FILE).read_bytes() == content


def test_another_folder_is_refused(target: Target, node: Path, tmp_path: Path) -> None:
    """Also for a migration; the sentence names the nodes. The folder of a node, or a copy of it, is accepted."""
    (other := tmp_path / "other").mkdir()
    for has in ("has no file node-id", f"has the id {OTHER}, which is not registered"):
        for use in (
            lambda: Store.open(other, target=target),
            lambda: Store.open(other, target=target, older=True),
            lambda: creation.upgrade(target, other),
        ):
            with pytest.raises(StoreError, match=has) as caught:
                use()
            assert f"Registered: node {node_id.read(node)} ({node} on " in str(caught.value)
        (other / node_id.FILE).write_text(f"{OTHER}\n")
    for own in (node, tmp_path):
        Store.open(own, target=target).close()
    assert [each.id for each in creation.registered(target)] == [node_id.read(node)]


def test_a_database_without_nodes(target: Target, tmp_path: Path) -> None:
    """It has lost a row that was made with it, so nobody uses it."""
    with target.connect() as conn:
        conn.execute("DELETE FROM node")
    with pytest.raises(StoreError, match="which nodes it has"):
        Store.open(tmp_path, target=target)


def test_a_refused_database_is_left_as_it_is(target: Target, tmp_path: Path) -> None:
    """Creating tables in the database of another installation makes no id and changes nothing."""
    (other := tmp_path / "other").mkdir()
    with pytest.raises(StoreError, match="left as it is"):
        creation.create(target, other)
    assert node_id.read(other) is None
    store = Store.open(tmp_path, target=target)
    with store.reading() as conn:
        assert conn.execute(text("SELECT count(*) FROM node")).scalar_one() == 1
    store.close()
