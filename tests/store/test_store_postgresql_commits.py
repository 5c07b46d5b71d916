"""Commits whose connection breaks: before the server has received them, and after it, before its answer."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_cluster import Cluster
from postgresql_proxy import Proxy
from store_samples import NOW, REGION, a_key, write

from hsmkms.errors import DependencyTimeoutException
from hsmkms.store import aliases
from hsmkms.store.engine import Store
from hsmkms.store.postgresql.target import Target

LONG_SECONDS = 60


@pytest.fixture
def proxy(cluster: Cluster, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy before the server, with its socket in the test's folder."""
    made = Proxy(tmp_path, cluster.folder)
    yield made
    made.close()


@pytest.mark.parametrize("committed", [False, True])
def test_a_connection_cut_at_a_commit(target: Target, proxy: Proxy, tmp_path: Path, *, committed: bool) -> None:
    """The error is one that clients repeat, and says that the change may have been made; if so, others see it."""
    direct = Store.open(tmp_path, target=target)
    behind = Store.open(tmp_path, target=Target(target.url.update_query_dict({"host": str(tmp_path)})))
    key = write(direct, a_key())
    signal = direct.change_signal()
    proxy.cut_before, proxy.cut_after = not committed, committed
    with pytest.raises(DependencyTimeoutException, match="may have been made all the same"), behind.atomic() as tx:
        aliases.insert(tx, REGION, "alias/one", key.key_id, NOW)
    proxy.cut_before = proxy.cut_after = False
    for each in (direct, behind):
        with each.reading() as conn:
            assert [alias.name for alias in aliases.every(conn, REGION)] == ["alias/one"][: int(committed)]
    if committed:
        until = time.monotonic() + LONG_SECONDS
        while not signal.moved():
            assert time.monotonic() < until
            time.sleep(0.005)
    with behind.atomic() as tx:
        aliases.insert(tx, REGION, "alias/two", key.key_id, NOW)
    signal.close()
    behind.close()
    direct.close()
