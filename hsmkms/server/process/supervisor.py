"""Supervise the workers of one server: start them, and replace those that die or hang.

Each worker has a place with a listening socket of its own on the same port (ports.py). The supervisor keeps the
sockets open, so that no client is refused while a worker is replaced. If that takes long, since the token is away or
hangs, a stand-in answers in its place that the token is away, until a worker has opened it.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Final

from msgspec import Struct, field

from hsmkms.config.settings import ServeSettings
from hsmkms.server.heartbeat import Heartbeat, HeartbeatTimer
from hsmkms.server.process.ports import PortOwner, listeners

START_REFUSED: Final = 78
"""Exit status where starting again cannot help (EX_CONFIG): a refused PIN, a wrong setting, a wrong token."""

START_AWAY: Final = 75
"""Exit status of a worker that cannot open the token since it is away (EX_TEMPFAIL): another one tries again."""

START_FAULT: Final = 70
"""Exit status of a worker that a fault of hsmkms has ended (EX_SOFTWARE)."""

MOST_FAULTS: Final = 3
"""So many workers in a row that a fault has ended before they answered end the server, if no other worker answers."""

STOP_SECONDS: Final = 35.0
"""A worker that has not stopped by then is killed."""

RESTART_DELAYS_SECONDS: Final = (1.0, 2.0, 4.0)
"""Delays before a worker that died is replaced: the first, the second, and all later times in a row."""

STAND_IN_SECONDS: Final = 3.0
"""A place without a worker that answers has a stand-in after that time."""

LOOK_SECONDS: Final = 0.5
START_FACTOR: Final = 3
"""A worker may take longer to open the token than to answer."""

KILL_SECONDS: Final = 1.0
"""A process that a kernel keeps in a call to a device ends after that call only; it is not waited for any longer."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_context: Final = multiprocessing.get_context("fork")

Inherited = Sequence[Pipe | socket.socket]


class ChildArguments(Struct, frozen=True):
    """Arguments of a child process: its socket, the pipe to report that it is ready, and its heartbeat.

    ``others``: inherited sockets and pipes of the parent that it must close.
    """

    listener: socket.socket
    ready: Pipe
    heartbeat: Heartbeat
    others: Inherited


Ready = Callable[[int, str], None]
"""Called with the port and what the first worker that answers serves."""

ChildMain = Callable[[ChildArguments], None]
"""Main function of a child process."""


class ChildMains(Struct, frozen=True):
    """Main functions: of a worker, of its stand-in, and of the ``first`` worker, for which the others wait."""

    first: ChildMain
    worker: ChildMain
    stand_in: ChildMain


class _Child(Struct):
    """A worker or a stand-in: its process, the pipe on which it reports that it is ready, and its last heartbeat.

    ``started_at``: by ``time.time()``. ``serves``: the installation and the token that it serves, as it reported them.
    """

    process: BaseProcess
    pipe: Pipe
    timer: HeartbeatTimer
    ready: bool = False
    started_at: float = field(default_factory=time.time)
    serves: str = ""


class _Place(Struct):
    """A listening socket and the process that serves it.

    ``failed``: consecutive failures to start a worker. ``faults``: how many of the last ones were faults of hsmkms.
    """

    listener: socket.socket
    worker: _Child | None = None
    stand_in: _Child | None = None
    unserved_since: float = field(default_factory=time.monotonic)
    again_at: float = 0.0
    failed: int = 0
    faults: int = 0

    @property
    def served(self) -> bool:
        return self.worker is not None and self.worker.ready


class Workers:
    """The workers of one server. ``replaced`` counts those that hung. ``owner``: of the port.

    ``lifeline``: a file descriptor whose end stops the server like SIGTERM.

    ``ready`` is called once a worker answers, with the port and what that worker serves.

    ``hung`` is called before a worker that hung is replaced, with the time when that was started.

    ``proven`` beats once a worker has opened the installation. A first worker that ends before ends the server, unless
    it was for a token that is away: then stand-ins answer, and another one tries again. ``MOST_FAULTS`` workers that
    a fault of hsmkms has ended before any of them answered end it as well: the next one would meet the same fault.
    """

    def __init__(
        self,
        settings: ServeSettings,
        mains: ChildMains,
        replaced: Heartbeat,
        ready: Ready,
        lifeline: int | None,
        proven: Heartbeat,
        hung: Callable[[float], None],
        owner: PortOwner,
    ) -> None:
        self._settings = settings
        self._mains = mains
        self._replaced = replaced
        self._hung = hung
        self._ready = ready
        self._proven = proven
        self._owner = owner
        self._announced = self._away = False
        self._places: list[_Place] = []
        self._leaving: list[BaseProcess] = []
        self._signals: list[int] = []
        self._looked_at = time.monotonic()
        self._wake_read, self._wake_write = os.pipe()
        self._lifeline = [lifeline] if lifeline is not None else []

    def run(self) -> None:
        """Start all workers, and replace those that die or hang, until a signal stops the server."""
        for number in SIGNALS:
            signal.signal(number, self._note)
        with listeners(self._settings, self._owner) as sockets:
            self._places = [_Place(each) for each in sockets]
            self._run_places()

    def _run_places(self) -> None:
        for place in self._places:
            place.worker = self._start_worker(place)
        try:
            self._run_until_stopped()
        except BaseException:
            # Children would outlive us without a supervisor, and multiprocessing would join them at exit.
            self._stop_all()
            raise

    def _run_until_stopped(self) -> None:
        while True:
            self._wait()
            if signal.SIGTERM in self._signals or signal.SIGINT in self._signals:
                self._stop_all()
                return
            if signal.SIGHUP in self._signals:
                self._signals.clear()
                self._renew()
            self._check_places()

    def _note(self, number: int, frame: object) -> None:
        del frame
        self._signals.append(number)
        os.write(self._wake_write, b"!")

    def _workers(self) -> list[_Child]:
        return [place.worker for place in self._places if place.worker is not None]

    def _wait(self) -> None:
        """Wait until a worker is ready or dies, a signal arrives, or the next check is due."""
        workers = self._workers()
        pipes = [each.pipe for each in workers if not each.ready]
        happened = wait(
            [self._wake_read, *self._lifeline, *pipes, *(each.process.sentinel for each in workers)], LOOK_SECONDS
        )
        if any(each in happened and not os.read(each, 4096) for each in self._lifeline):
            self._lifeline.clear()
            self._signals.append(signal.SIGTERM)
        if self._wake_read in happened:
            os.read(self._wake_read, 4096)
        for each in workers:
            if each.pipe in happened:
                _read_report(each)

    # -- one place -------------------------------------------------------------------------------------------------

    def _check_places(self) -> None:
        now = time.monotonic()
        elapsed = min(now - self._looked_at, 2 * LOOK_SECONDS)  # a machine that was stopped has not hung
        self._looked_at = now
        for place in self._places:
            self._end_hung(place, elapsed)
            self._schedule_restart(place, now)
            if place.worker is None and now >= place.again_at:
                place.worker = self._start_worker(place)
            self._fill_gap(place, now)
        self._leaving = [each for each in self._leaving if each.is_alive()]
        answering = next((each for each in self._workers() if each.ready), None)
        if not self._announced and answering is not None:
            self._announced = True
            self._ready(self._places[0].listener.getsockname()[1], answering.serves)

    def _end_hung(self, place: _Place, elapsed: float) -> None:
        """Kill a worker whose heartbeat has stopped; the next one takes its place at once."""
        worker = place.worker
        if worker is None:
            return
        limit = self._settings.hang_seconds * (1 if worker.ready else START_FACTOR)
        if not limit or worker.timer.update(elapsed) <= limit:
            return
        _say(f"worker {worker.process.pid} has given no sign of life for {limit:g} s: it is killed and replaced")
        self._replaced.beat()
        worker.process.kill()
        worker.process.join(KILL_SECONDS)
        self._hung(worker.started_at)
        self._leaving.append(worker.process)
        place.worker, place.again_at = None, 0.0

    def _schedule_restart(self, place: _Place, now: float) -> None:
        """Note that a worker has died, to replace it after a delay; end the server if another one cannot help."""
        worker = place.worker
        if worker is None or worker.process.is_alive():
            return
        worker.process.join()
        status = worker.process.exitcode or 0
        place.faults = place.faults + 1 if status == START_FAULT and not worker.ready else 0
        self._end_if_hopeless(place, status)
        _say(f"a worker ended with status {status}: it is replaced")
        place.again_at = now + restart_delay(place.failed)
        place.failed += 1
        place.worker = None

    def _end_if_hopeless(self, place: _Place, status: int) -> None:
        """End the server if its first worker was refused or has not proven the PIN, or if fault follows fault.

        A token that is away is waited for.
        """
        self._away = self._away or status == START_AWAY
        if not self._announced and (status == START_REFUSED or (self._proves(place) and status != START_AWAY)):
            sys.exit(max(status, 1))  # a signal that has killed it is a negative number
        if place.faults >= MOST_FAULTS and not any(each.served for each in self._places):
            _say(f"{place.faults} workers in a row have ended by a fault of hsmkms before they answered (see the log)")
            sys.exit(START_FAULT)

    def _fill_gap(self, place: _Place, now: float) -> None:
        """Run a stand-in as long as no worker answers."""
        if place.served:
            place.unserved_since, place.failed = now, 0
            if place.stand_in is not None:
                place.stand_in.process.terminate()
                self._leaving.append(place.stand_in.process)
                place.stand_in = None
            return
        late = (self._announced or self._away) and now - place.unserved_since > STAND_IN_SECONDS
        if late and (place.stand_in is None or not place.stand_in.process.is_alive()):
            place.stand_in = self._start(place, self._mains.stand_in)

    def _proves(self, place: _Place) -> bool:
        """Return True if the worker at this place is to prove the PIN, for which the others wait."""
        return place is self._places[0] and not self._proven.count

    def _start_worker(self, place: _Place) -> _Child:
        return self._start(place, self._mains.first if self._proves(place) else self._mains.worker)

    def _start(self, place: _Place, main: ChildMain) -> _Child:
        here, there = _context.Pipe(duplex=False)
        heartbeat = Heartbeat()
        others: Inherited = [here, *(each.listener for each in self._places if each is not place)]
        process = _context.Process(target=main, args=(ChildArguments(place.listener, there, heartbeat, others),))
        # Until the child has its own handlers, the parent's would swallow a signal that is meant for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        there.close()
        return _Child(process, here, HeartbeatTimer(heartbeat))

    # -- all of them ------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Replace the workers one by one: the new one serves before the old one stops."""
        for place in self._places:
            old = place.worker
            if old is None:
                continue  # it is being replaced as it is
            new = self._start(place, self._mains.worker)
            if not self._is_ready(new):
                _say("a new worker did not start, so the old ones go on: see the message above")
                return
            place.worker = new
            _stop([old.process])

    def _is_ready(self, worker: _Child) -> bool:
        """Wait until a worker is ready; one that hangs is killed."""
        limit = self._settings.hang_seconds * START_FACTOR
        deadline = time.monotonic() + limit
        while not worker.ready and worker.process.is_alive():
            if limit and time.monotonic() > deadline:
                worker.process.kill()
                worker.process.join(KILL_SECONDS)
                self._hung(worker.started_at)
            if worker.pipe.poll(0.1):
                _read_report(worker)
        return worker.ready

    def _stop_all(self) -> None:
        """Stop all processes. New clients are refused at once, not kept waiting for workers that finish requests."""
        for each in self._places:
            each.listener.close()
        stand_ins = (place.stand_in for place in self._places if place.stand_in is not None)
        _stop([*(each.process for each in (*self._workers(), *stand_ins)), *self._leaving])


def restart_delay(failures: int) -> float:
    """Return the seconds to wait before a worker is replaced, after so many failures in a row before this one."""
    return RESTART_DELAYS_SECONDS[min(failures, len(RESTART_DELAYS_SECONDS) - 1)]


def _stop(processes: Sequence[BaseProcess]) -> None:
    for each in processes:
        each.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for each in processes:
        each.join(max(deadline - time.monotonic(), 0.0))
        if each.is_alive():
            each.kill()
            each.join(KILL_SECONDS)


def _say(text: str) -> None:
    sys.stderr.write(f"hsmkms: {text}\n")


def _read_report(worker: _Child) -> None:
    """Read a worker's report that it is ready, with what it serves; a closed pipe reports nothing."""
    with suppress(EOFError):
        if worker.pipe.poll():
            worker.serves = worker.pipe.recv()
            worker.ready = True
