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

from hsmkms.config.settings import ServeSettings, Settings, TokenSettings
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.process import supervisor
from hsmkms.server.process.ports import PortOwner
from hsmkms.server.process.supervisor import START_AWAY, START_FAULT, ChildArguments, ChildMains, Workers, restart_delay
from hsmkms.server.server import _begin, _Shared, _work

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


def serve_ready(arguments: ChildArguments) -> None:
    """A worker that is ready at once."""
    arguments.ready.send("a test")
    sleep()


def run(folder: Path, first: Callable[..., None], other: Callable[..., None], proven: Heartbeat, ready: Pipe) -> None:
    """A server of two workers."""
    mains, owner = ChildMains(first, other, sleep), PortOwner(folder)
    Workers(SETTINGS, mains, Heartbeat(), lambda *sent: ready.send(sent), None, proven, lambda _: None, owner).run()


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


@pytest.mark.parametrize(("failures", "seconds"), [(0, 1.0), (1, 2.0), (2, 4.0), (3, 4.0), (1_024, 4.0), (10**6, 4.0)])
def test_delay_before_a_restart(failures: int, seconds: float) -> None:
    """The delay doubles up to four seconds, and stays there however often a worker fails to start."""
    assert restart_delay(failures) == seconds


def wait_for_token(folder: Path, started: Pipe) -> None:
    """A server whose token is away, and whose first worker has failed to open it ten thousand times before."""
    supervisor.RESTART_DELAYS_SECONDS = (0.0,)  # type: ignore[misc] - in this process alone

    class Waiting(Workers):
        def _start_worker(self, place: Any) -> Any:  # noqa: ANN401 - private types of the supervisor
            place.failed += 10_000
            started.send("started")
            return super()._start_worker(place)

    mains = ChildMains(end(lambda: sys.exit(START_AWAY)), sleep, sleep)
    owner = PortOwner(folder)
    settings = replace(SETTINGS, workers=1)
    Waiting(settings, mains, Heartbeat(), lambda *_: None, None, Heartbeat(), lambda _: None, owner).run()


def test_a_server_waits_for_its_token_as_long_as_it_takes(tmp_path: Path) -> None:
    """After thousands of workers that could not open a token that is away, the server still starts the next one."""
    here, there = _fork.Pipe(duplex=False)
    process = _fork.Process(target=wait_for_token, args=(tmp_path, there))
    process.start()
    there.close()
    try:
        for _ in range(3):
            assert wait([here], SECONDS)
            assert here.recv() == "started"
    finally:
        process.terminate()
        process.join(SECONDS)
    assert process.exitcode == 0


def serve_with_fault(folder: Path, answering: int, started: Pipe) -> None:
    """A server of workers that meet a fault of hsmkms after the PIN was proven; the first ``answering`` ones do not."""
    supervisor.RESTART_DELAYS_SECONDS = (0.0,)  # type: ignore[misc] - in this process alone
    settings = Settings(account_id="111122223333", regions=("eu-central-1",), token=TokenSettings(), data_dir=folder)
    shared = _Shared(settings, folder, Heartbeat())
    numbers = iter(range(10_000))

    def start(heartbeat: Heartbeat) -> object:
        del heartbeat
        raise AttributeError("'Kms' object has no attribute 'encrypt'")

    def work(arguments: ChildArguments) -> None:
        _work(start, shared, arguments)

    class Counting(Workers):
        def _start_worker(self, place: Any) -> Any:  # noqa: ANN401 - private types of the supervisor
            number = next(numbers)
            started.send(number)
            return self._start(place, serve_ready if number < answering else work)

    proven = Heartbeat()
    proven.beat()
    mains, owner = ChildMains(sleep, sleep, sleep), PortOwner(folder)
    Counting(SETTINGS, mains, Heartbeat(), lambda *_: None, None, proven, lambda _: None, owner).run()


def test_workers_with_the_same_fault_end_the_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A fault that three workers in a row meet before they answer ends the server, which names it."""
    here, there = _fork.Pipe(duplex=False)
    process = _fork.Process(target=serve_with_fault, args=(tmp_path, 0, there))
    process.start()
    there.close()
    process.join(SECONDS)
    assert process.exitcode == START_FAULT
    assert 3 <= len(received(here)) <= 6, "each of two places has tried at most three times"
    said = capfd.readouterr().err
    assert "AttributeError: 'Kms' object has no attribute 'encrypt'" in said
    assert "hsmkms: 3 workers in a row have ended by a fault of hsmkms before they answered" in said


def received(pipe: Pipe) -> list[int]:
    """What was sent before the other end was closed."""
    numbers: list[int] = []
    try:
        while pipe.poll(SECONDS / 2):
            numbers.append(pipe.recv())
    except EOFError:
        return numbers
    raise AssertionError("a worker is still alive")


def test_fault_of_one_worker_leaves_the_server_up(tmp_path: Path) -> None:
    """As long as another worker answers, one that meets a fault again and again is replaced."""
    here, there = _fork.Pipe(duplex=False)
    process = _fork.Process(target=serve_with_fault, args=(tmp_path, 1, there))
    process.start()
    there.close()
    try:
        for number in range(6):
            assert wait([here], SECONDS)
            assert here.recv() == number
    finally:
        process.terminate()
        process.join(SECONDS)
    assert process.exitcode == 0
