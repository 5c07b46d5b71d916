"""A proxy before a PostgreSQL server that cuts connections at a COMMIT: before the server has it, or its answer."""

import select
import socket
import threading
from contextlib import suppress
from pathlib import Path

COMMIT = b"COMMIT\x00"
SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Forwards connections to the server's socket, and cuts one at a COMMIT while ``cut_before`` or ``cut_after``."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.cut_before = self.cut_after = False
        self._server = str(server / SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
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
