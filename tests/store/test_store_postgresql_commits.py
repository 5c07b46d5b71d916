"""Commits whose connection breaks: before the server has received them, and after it, before its answer."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from postgresql_cluster import Cluster
from store_samples import NOW, REGION, a_key, write

from hsmkms.errors import DependencyTimeoutException
from hsmkms.store import aliases
from hsmkms.store.engine import Store
from hsmkms.store.postgresql.target import Target

COMMIT = b"COMMIT\x00"
LONG_SECONDS = 60


class Proxy:
    """Forwards connections to the server's socket, and cuts one at a COMMIT when told to."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.cut_before = self.cut_after = False
        self._server = str(server / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no connections any more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:  # ends as either side does
            server.connect(self._server)
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    commits = source is client and COMMIT in data
                    if not data or (commits and self.cut_before):
                        return
                    (server if source is client else client).sendall(data)
                    if commits and self.cut_after:
                        server.recv(65536)  # the server's answer, which the client does not get
                        return


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
