"""Listen on a port that no other server has: one socket for each worker.

Workers share a port by SO_REUSEPORT, which would let any server of the same user join them silently. So the first
socket is bound and listens without that option, which the kernel refuses while anything listens there; only then is
the option set, and the others join. A server that is to replace a running one joins its sockets, if the lock file in
the data folder proves that they belong to a server of this installation. There is one for each address: a server on
another one says nothing about who listens on this.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.config.settings import ServeSettings
from hsmkms.errors import ConfigurationError
from hsmkms.file_lock import lock, try_lock

BACKLOG: Final = 4096
BUFFER_BYTES: Final = 64 * 1024
"""What the kernel keeps of a connection's data in either direction; it counts twice as much, for its own needs."""

_LONGEST_PID: Final = 20


class PortOwner(Struct, frozen=True):
    """What a server needs to claim a port: its installation's data folder, and whether it joins a running server."""

    data_dir: Path
    joins: bool = False


@contextmanager
def listeners(serve: ServeSettings, owner: PortOwner) -> Iterator[list[socket.socket]]:
    """Open one listening socket for each worker, all on one port, and hold the port's lock for the block.

    The forked workers inherit the lock, so that it lasts as long as their sockets. Raises ConfigurationError if the
    port cannot be had.
    """
    sockets: list[socket.socket] = []
    held = None
    try:
        first = _claim(serve, owner)
        sockets.append(first)
        port = first.getsockname()[1]
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held = _hold(_lock_file(owner, first.getsockname()[0], port))
        sockets.extend(_listen(serve, port, shared=True) for _ in range(serve.workers - 1))
        yield sockets
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {serve.host} port {serve.port}: {exc.strerror}") from exc
    finally:
        for each in sockets:
            each.close()
        if held is not None:
            os.close(held)


def _claim(serve: ServeSettings, owner: PortOwner) -> socket.socket:
    """Open the first socket: exclusively, or beside those of the running server of this installation."""
    try:
        return _listen(serve, serve.port, shared=False)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        pid = _holder(_lock_file(owner, _numeric(serve), serve.port))
        if owner.joins and pid is not None:
            return _listen(serve, serve.port, shared=True)
        raise ConfigurationError(_in_use(serve, pid, owner)) from exc


def _in_use(serve: ServeSettings, pid: str | None, owner: PortOwner) -> str:
    place = f"port {serve.port} of {serve.host} is in use"
    if pid is not None:
        return (
            f"{place} by another server of this installation (process {pid}): stop that one first, choose another "
            "port with --port, or replace it without downtime with --join"
        )
    elsewhere = next(filter(None, map(_holder, _lock_files(owner, serve.port))), None)
    if elsewhere is not None:
        return (
            f"{place}, and a server of this installation (process {elsewhere}) listens on that port of another "
            "address: stop that one first, choose another port with --port, or use its address (with --join to replace "
            "it without downtime)"
        )
    joining = ", which --join cannot share" if owner.joins else ""
    return (
        f"{place} by another program or another installation{joining}: choose another port with --port, or stop what "
        f"listens there (`ss -ltnp sport = :{serve.port}` shows it)"
    )


def _listen(serve: ServeSettings, port: int, *, shared: bool) -> socket.socket:
    listener = socket.socket(_family(serve))
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Inherited by connections: by itself the kernel keeps megabytes of what a worker or a client does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        listener.bind((serve.host, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


# -- the lock of a port -----------------------------------------------------------------------------------------------


def _lock_file(owner: PortOwner, address: str, port: int) -> Path:
    return owner.data_dir / f"port-{port}-{address}.lock"


def _lock_files(owner: PortOwner, port: int) -> list[Path]:
    """Return the lock files of a port on all addresses."""
    return sorted(owner.data_dir.glob(f"port-{port}-*.lock"))


def _numeric(serve: ServeSettings) -> str:
    """Return the address of the settings as the kernel shows it for a socket that is bound to it."""
    return str(socket.getaddrinfo(serve.host, serve.port, _family(serve), socket.SOCK_STREAM)[0][4][0])


def _family(serve: ServeSettings) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in serve.host else socket.AF_INET


def _hold(file: Path) -> int:
    """Lock a port's file together with the other servers that share the port, and write this process's id to it."""
    descriptor = _opened(file, os.O_CREAT)
    lock(descriptor, shared=True)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _opened(file: Path, flags: int) -> int:
    """Open a lock file. FileNotFoundError if it is missing and not to be created, ConfigurationError for any other."""
    try:
        return os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ConfigurationError(
            f"{file} cannot be written ({exc.strerror}): check its owner and mode, and those of the data folder"
        ) from exc


def _holder(file: Path) -> str | None:
    """Return the id of the process that holds a port's lock, or None if no server of this installation does."""
    with suppress(FileNotFoundError):
        descriptor = _opened(file, 0)
        try:
            return None if try_lock(descriptor) else os.pread(descriptor, _LONGEST_PID, 0).decode() or "unknown"
        finally:
            os.close(descriptor)
    return None
