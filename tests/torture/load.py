"""Threads that put load on servers until they are stopped."""

import threading
from typing import Self

from actors import Actor
from calls import Caller


class Load:
    """Threads that call until they are stopped; an exception of one of them is raised at the end."""

    def __init__(self, callers: list[tuple[Actor, Caller]]) -> None:
        self._stop = threading.Event()
        self._wrong: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=caller) for caller in callers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._wrong:
            raise self._wrong[0]

    def _work(self, actor: Actor, caller: Caller) -> None:
        try:
            actor.work(caller, self._stop)
        except BaseException as exc:  # noqa: BLE001 - it is raised again by the thread that waits
            self._wrong.append(exc)
            self._stop.set()

    def wait(self, seconds: float) -> None:
        """Let it run for so long, or until something is wrong."""
        self._stop.wait(seconds)

    def stop(self) -> None:
        """Begin nothing new."""
        self._stop.set()
