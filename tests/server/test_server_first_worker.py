"""The first worker proves the PIN for all: as long as it has not, its end is the server's."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hsmkms.config.settings import ServeSettings
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.process.ports import PortOwner
from hsmkms.server.process.supervisor import Lives, Slot, Workers
from hsmkms.server.server import _begin

SECONDS = 120.0
_fork = multiprocessing.get_context("fork")
SETTINGS = replace(ServeSettings(), port=0, workers=2)


def sleep(*_: Any) -> None:  # noqa: ANN401 - as a worker is called
    """A worker that says nothing."""
    _begin(())
    time.sleep(SECONDS)


def end(how: Callable[[], object], heartbeat: Heartbeat | None = None) -> Callable[..., None]:
    """A worker that ends in some way, after it has proven the PIN if it has a heartbeat to beat."""

    def life(*_: Any) -> None:  # noqa: ANN401 - see above
        if heartbeat is not None:
            heartbeat.beat()
        how()

    return life


def serve_ready(slot: Slot) -> None:
    """A worker that is ready at once."""
    slot.ready.send("a test")
    sleep()


def run(folder: Path, first: Callable[..., None], other: Callable[..., None], proven: Heartbeat, ready: Pipe) -> None:
    """A server of two workers."""
    lives, owner = Lives(first, other, sleep), PortOwner(folder)
    Workers(SETTINGS, lives, Heartbeat(), lambda *sent: ready.send(sent), None, proven, lambda _: None, owner).run()


@pytest.mark.parametrize(
    ("how", "status"),
    [(lambda: sys.exit(1), 1), (lambda: sys.exit(78), 78), (lambda: os.kill(os.getpid(), signal.SIGKILL), 1)],
    ids=["a fault", "refused", "killed"],
)
def test_its_end_ends_the_server(tmp_path: Path, how: Callable[[], object], status: int) -> None:
    """Whatever keeps the first worker from opening the installation ends the server, and the others with it."""
    here, there = _fork.Pipe(duplex=False)
    process = _fork.Process(target=run, args=(tmp_path, end(how), sleep, Heartbeat(), there))
    process.start()
    there.close()
    process.join(SECONDS)
    assert process.exitcode == status
    assert here.poll(SECONDS / 2), "a worker is still alive"  # the pipe ends with the last process that has it
    with pytest.raises(EOFError):
        here.recv()


def test_once_proven_it_is_one_of_them(tmp_path: Path) -> None:
    """A first worker that ends after it has proven the PIN is replaced by one like the others; the server stays up."""
    here, there = _fork.Pipe(duplex=False)
    proven = Heartbeat()
    life = end(lambda: sys.exit(1), proven)
    process = _fork.Process(target=run, args=(tmp_path, life, serve_ready, proven, there))
    process.start()
    there.close()
    try:
        assert wait([here], SECONDS)
        port, serves = here.recv()
        assert (port > 0, serves) == (True, "a test")
        assert process.is_alive()
    finally:
        process.terminate()
        process.join(SECONDS)
    assert process.exitcode == 0
