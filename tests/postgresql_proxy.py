"""A proxy before a PostgreSQL server, which cuts connections."""

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path

SOCKET = ".s.PGSQL.5432"
COMMIT = b"COMMIT\x00"


class Proxy:
    """Forwards connections to the server's socket; cuts one at a COMMIT, or all of them, when that is set."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.cut_before = self.cut_after = False
        self._is_cut = False
        self._clients: list[socket.socket] = []
        self._server = str(server / SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no connections any more."""
        self._listener.close()

    def cut(self) -> None:
        """End all connections, and those to come as soon as they are made."""
        self._is_cut = True
        for each in self._clients:
            with suppress(OSError):  # it has ended
                each.shutdown(socket.SHUT_RDWR)
        self._clients.clear()

    def mend(self) -> None:
        """Forward connections again."""
        self._is_cut = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                client.close()
                continue
            self._clients.append(client)
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
