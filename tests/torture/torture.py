"""Kill -9 of processes, and a token that is swapped, at random moments of a mixed load; then check everything.

Killed are workers, the whole server and commands; for the token another one is put in its place for a while.

``scripts/torture --help`` says what can be chosen. A breach ends the run with status 1, its seed and its round; the
installation is kept then.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import nodes_torture
from actors import Actor
from calls import Caller, CommandCaller, HttpCaller, Shift, UnansweredError
from cli_site import ACCOUNT, OTHER_REGION, REGION, Site
from inspector import Inspector
from ledger import BreachError, Ledger
from load import Load
from nodes_torture import NodesTorture
from served import Served, credentials, set_in, start
from swapping import TokenFolder
from waiting import until

from hsmkms.config import settings as config

WORKERS: Final = 3
CLIENTS: Final = 5
GRANTEE: Final = f"arn:aws:iam::{ACCOUNT}:user/alice"
KINDS: Final = {"worker": 6, "workers": 1, "server": 3, "parent": 1, "command": 3, "token": 4}
"""What happens, and how often. Killed are one worker, all of them, everything at once, the workers' parent, or commands
alone; or the token is swapped, for one that was initialised again with the same label, serial and PIN."""

COMMAND_ACTS: Final = ("create", "encrypt", "decrypt", "switch", "rotate", "schedule", "alias")
SUNDRY: Final = (("maintain",), ("list-keys",), ("reconcile",), ("audit", "tail"), ("rotation-report",))
"""Commands that are killed besides; what they do has no ledger."""


class Torture:
    """One installation and what happens to it. ``killing``: False for load alone; ``only``: one kind of event."""

    def __init__(
        self, folder: Path, seed: int, *, workers: int = WORKERS, killing: bool = True, only: str | None = None
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - it shall be repeatable
        self._killing = killing
        self._kinds = {only: 1} if only is not None else KINDS
        self._workers = workers
        self._shift = Shift.build(folder)
        self.site = Site(folder=folder)
        where = ("--data-dir", self.site.data, "--account-id", ACCOUNT, "--region", REGION, "--region", OTHER_REGION)
        assert self.site.run("init", "--create-softhsm-token", *where).json["Account"] == ACCOUNT
        set_in(self.site, "log_requests = false")
        self._token = TokenFolder.of(config.load(self.site.config).token)
        made, _ = credentials(
            self.site,
            ("create_access_key", {"user_name": None}),
            ("create_user", {"name": "alice"}),
        )
        self._access_key = (made["access_key_id"], made["secret_access_key"])
        self._shared = self.site.new_key()
        self._actors = [self._actor(f"{seed}-{number}") for number in range(CLIENTS)]
        self._commander = self._actor(f"{seed}-command")
        self._commander.only(*COMMAND_ACTS)
        self._inspector = Inspector(self.site.config, self._shift, self._shared, GRANTEE, OTHER_REGION)
        self._server: Served | None = None
        self.kills: Counter[str] = Counter()

    def _actor(self, name: str) -> Actor:
        return Actor(Ledger(f"client-{name}"), self._shift, name, self._shared, GRANTEE, OTHER_REGION)

    @property
    def ledgers(self) -> list[Ledger]:
        """What all clients know."""
        return [each.ledger for each in (*self._actors, self._commander)]

    @property
    def summary(self) -> str:
        """What was done so far."""
        calls, unanswered = (
            sum(ledger.calls for ledger in self.ledgers),
            sum(ledger.unanswered for ledger in self.ledgers),
        )
        killed = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        again = sum(ledger.again for ledger in self.ledgers)
        return (
            f"{calls} calls, {unanswered} unanswered, {again} asked again; killed or swapped: {killed}; "
            f"mended: {self._inspector.mended}"
        )

    def round(self) -> None:
        """Load, a kill, and a check of everything; BreachError if anything is not as it must be."""
        server = self._server or self._start()
        kind = self._random.choices(list(self._kinds), list(self._kinds.values()))[0] if self._killing else "nothing"
        lasting = self._random.uniform(0.05, 0.8)
        with Load(self._callers(server)) as load:
            load.wait(lasting)
            self._kill(server, kind, load)
        self.kills[kind] += 1
        if self._server is not None and server.process.poll() is not None:
            raise BreachError(f"the server has ended: {server.log_text[-3000:]}")
        server_log = server.log_text
        # Workers without a parent may complain: each ends in the middle of whatever it does.
        if ("Traceback" in server_log and kind != "parent") or "locked" in server_log:
            raise BreachError(f"the server said: {server_log[-3000:]}")
        at_rest = self._server is None
        if at_rest:
            # Long enough for turns and for what is under way to be over; at times for waiting periods as well.
            jump = self._random.choice((timedelta(minutes=15), timedelta(days=8)))
            self._shift.offset += jump
            for each in self.ledgers if jump.days else ():
                each.jump()
        self._inspector.look(self.ledgers, at_rest=at_rest)

    def load(self, seconds: float) -> None:
        """Load alone, and a check of everything."""
        server = self._server or self._start()
        with Load(self._callers(server)) as load:
            load.wait(seconds)
        if server.process.poll() is not None or "Traceback" in server.log_text or "locked" in server.log_text:
            raise BreachError(f"the server said: {server.log_text[-3000:]}")
        self._inspector.look(self.ledgers, at_rest=False)

    def close(self) -> None:
        """Stop everything."""
        if self._server is not None:
            self._kill_all(self._server)

    def _start(self) -> Served:
        self._server = start(self.site, "--workers", self._workers, **self._shift.environment())
        self._server.wait_until_ready()
        until(self._answers)  # killed before it has proven the PIN, a first worker ends the server
        return self._server

    def _answers(self) -> bool:
        assert self._server is not None
        try:
            return self._server.page("/readyz")[0] == 200
        except ConnectionError:
            return False

    def _callers(self, server: Served) -> list[tuple[Actor, Caller]]:
        seed = self._random.random()
        fuses = random.Random(seed)  # noqa: S311 - it shall be repeatable

        def fuse() -> float | None:
            return fuses.uniform(0.05, 1.0) if self._killing and fuses.random() < 0.6 else None

        clients: list[tuple[Actor, Caller]] = [
            (actor, HttpCaller(server.port, REGION, self._access_key, self._shift)) for actor in self._actors
        ]
        return [*clients, (self._commander, CommandCaller(self.site, self._shift, fuse))]

    def _kill(self, server: Served, kind: str, load: Load) -> None:
        if kind == "worker":
            for worker in sorted(server.workers())[:1]:
                self._kill_one(worker)
        elif kind == "workers":
            for worker in server.workers():
                self._kill_one(worker)
        elif kind == "command":
            for _ in range(2):
                fuse = self._random.uniform(0.2, 0.9)
                with suppress(UnansweredError):
                    CommandCaller(self.site, self._shift, lambda fuse=fuse: fuse).run(*self._random.choice(SUNDRY))
        elif kind == "token":
            self._swap(load)
        elif kind in ("server", "parent"):
            load.stop()
            self._end(server, kind)

    def _swap(self, load: Load) -> None:
        """Put another token in the place of the right one for a while, under load, and the right one back."""
        stranger = self._token.initialised_again(f"stranger-{self.kills['token']}")
        self._token.vanish()
        time.sleep(self._random.choice((0.0, self._random.uniform(0.0, 0.3))))
        self._token.put(stranger)
        load.wait(self._random.uniform(0.02, 1.5))
        self._token.put_back()
        load.wait(self._random.uniform(0.1, 1.0))

    def _end(self, server: Served, kind: str) -> None:
        """The server is gone; of a parent's workers it is expected that they follow it."""
        workers = server.workers()
        if kind == "server":
            self._kill_all(server)
        else:
            server.process.kill()
            server.process.wait()
            until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
        self._server = None

    @staticmethod
    def _kill_one(process: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    @staticmethod
    def _kill_all(server: Served) -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def _made(folder: Path, wanted: argparse.Namespace) -> Torture | NodesTorture:
    if wanted.nodes == 1:
        return Torture(
            folder, wanted.seed, workers=wanted.workers or WORKERS, killing=not wanted.no_kill, only=wanted.only
        )
    folder.with_name(f"{folder.name}-pg").mkdir()
    workers = wanted.workers or nodes_torture.WORKERS
    return NodesTorture(folder, wanted.seed, count=wanted.nodes, workers=workers, only=wanted.only)


def main() -> None:
    """Rounds until there are enough of them, or until time is over."""
    parser = argparse.ArgumentParser(prog="scripts/torture", description="Kill processes under load, and look at all.")
    parser.add_argument("--rounds", type=int, default=1000, help="how many rounds at most (1000)")
    parser.add_argument("--seconds", type=float, default=900.0, help="begin no round after so long (900)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="chooses what is done and killed")
    parser.add_argument("--workers", type=int, help=f"processes of a server ({WORKERS}, of each of several nodes 2)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes, on a PostgreSQL database if they are several (1)")
    kinds = sorted({*KINDS, *nodes_torture.KINDS})
    parser.add_argument("--only", choices=kinds, help="let nothing else happen than this")
    parser.add_argument("--no-kill", action="store_true", help="load alone: one round of --seconds")
    wanted = parser.parse_args()
    if wanted.only is not None and wanted.only not in (KINDS if wanted.nodes == 1 else nodes_torture.KINDS):
        parser.error(f"--only {wanted.only} does not go with --nodes {wanted.nodes}")
    memory = Path("/dev/shm")  # noqa: S108 - only as the place of a fresh folder with a random name
    folder = Path(tempfile.mkdtemp(prefix="hsmkms-torture-", dir=memory if memory.is_dir() else None))
    logging.getLogger("hsmkms").addHandler(logging.NullHandler())
    sys.stdout.write(f"seed {wanted.seed}, in {folder}\n")
    torture = _made(folder, wanted)
    started, done = time.monotonic(), 0
    try:
        if wanted.no_kill:
            torture.load(wanted.seconds)
        while not wanted.no_kill and done < wanted.rounds and time.monotonic() - started < wanted.seconds:
            torture.round()
            done += 1
            if done % 10 == 0:
                sys.stdout.write(f"{done} rounds, {time.monotonic() - started:.0f} s: {torture.summary}\n")
                sys.stdout.flush()
    except BaseException:
        sys.stdout.write(f"round {done + 1} of seed {wanted.seed}: {torture.summary}\n{folder} is kept\n")
        raise
    finally:
        torture.close()
    sys.stdout.write(f"{done} rounds in {time.monotonic() - started:.0f} s, no breach: {torture.summary}\n")
    for each in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(each)


if __name__ == "__main__":
    main()
