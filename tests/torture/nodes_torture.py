"""Torture several nodes on one PostgreSQL database and one token: rounds of load, in each of which something dies.

Killed are workers, nodes, commands and the database's primary, which comes back or is replaced by its standby; or
connections to the database are cut at their commits.
"""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from actors import Actor
from calls import Caller, CommandCaller, Shift, UnansweredError
from cli_site import ACCOUNT, OTHER_REGION
from inspector import Inspector
from ledger import BreachError, Ledger
from load import Load
from nodes import Installation, Node, NodesCaller
from postgresql_pair import Pair
from served import START_SECONDS, STOP_SECONDS
from waiting import until

from hsmkms.config import settings as config
from hsmkms.kms import Kms
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.model.rotation import EnableKeyRotationRequest, ListKeyRotationsRequest
from hsmkms.service.audit.gathering import Gathering
from hsmkms.wiring import core as wiring

CLIENTS: Final = 6
WORKERS: Final = 2
GRANTEE: Final = f"arn:aws:iam::{ACCOUNT}:user/alice"
YEARLY_KEYS: Final = 4
KINDS: Final = {
    "worker": 4,
    "workers": 2,
    "node": 5,
    "nodes": 3,
    "database": 4,
    "promote": 3,
    "cut": 5,
    "year": 2,
}
"""What happens, and how often: one worker dies, all of a node, a node, all nodes; or the database's primary, which is
started again or replaced by its standby; connections at their commits; or a year passes, and rotations are due."""

LEASE_SECONDS: Final = 300.0
"""No longer than this does a process that died keep others from doing what is due."""

COMMAND_ACTS: Final = ("create", "encrypt", "decrypt", "schedule", "alias")


class NodesInspector(Inspector):
    """The check of an installation by its first node, with the audit logs of all: each request is in one of them."""

    def __init__(self, nodes: list[Node], shift: Shift, shared: str) -> None:
        super().__init__(nodes[0].site.config, shift, shared, GRANTEE, OTHER_REGION)
        self._folders = [node.site.data for node in nodes]

    def _maintain(self, kms: Kms) -> None:
        """Do what is due once the lease has ended of a process that died: it goes by the clock of the database."""
        until(lambda: not kms.operator.maintain().busy, LEASE_SECONDS + START_SECONDS)
        super()._maintain(kms)

    def _audit(self, kms: Kms, ledgers: Iterable[Ledger]) -> None:
        """The logs verify together, and one of them has each request that was answered."""
        verdict = kms.operator.audit.verify_together(Gathering(folders=self._folders[1:]))
        if verdict.faults or verdict.accepted:
            raise BreachError(f"audit verify --gather: {verdict}")
        self._requests(ledgers, *(folder / "audit" for folder in self._folders))


class NodesTorture:
    """An installation with several nodes and what happens to it; the members are those of ``Torture``."""

    def __init__(self, folder: Path, seed: int, *, count: int, workers: int = WORKERS, only: str | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - it shall be repeatable
        self._kinds = {only: 1} if only is not None else KINDS
        self._workers = workers
        self._shift = Shift.build(folder)
        self._pair = Pair(folder.with_name(f"{folder.name}-pg"))
        try:
            self._installation = Installation(folder, self._pair, count)
        except BaseException:
            self._pair.stop()
            raise
        self._nodes = self._installation.nodes
        first = self._installation.first
        self._shared = first.new_key()
        self._settings = config.load(first.config)
        with self._opened() as kms:
            self._yearly = [kms.create_key(CreateKeyRequest()).key_metadata.key_id for _ in range(YEARLY_KEYS)]
            for key_id in self._yearly:
                kms.enable_key_rotation(EnableKeyRotationRequest(key_id=key_id))
        self._years = 0
        self._actors = [self._actor(f"{seed}-{number}") for number in range(CLIENTS)]
        self._commander = self._actor(f"{seed}-command")
        self._commander.only(*COMMAND_ACTS)
        self._inspector = NodesInspector(self._nodes, self._shift, self._shared)
        self.kills: Counter[str] = Counter()

    def _actor(self, name: str) -> Actor:
        return Actor(Ledger(f"client-{name}"), self._shift, name, self._shared, GRANTEE, OTHER_REGION)

    def _opened(self) -> Kms:
        return Kms(wiring.core_of(self._settings, self._shift.now))

    @property
    def ledgers(self) -> list[Ledger]:
        """What all clients know."""
        return [each.ledger for each in (*self._actors, self._commander)]

    @property
    def summary(self) -> str:
        """What was done so far."""
        calls, unanswered, again = (
            sum(getattr(ledger, name) for ledger in self.ledgers) for name in ("calls", "unanswered", "again")
        )
        events = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"{calls} calls, {unanswered} unanswered, {again} asked again; what happened: {events}; "
            f"mended: {self._inspector.mended}"
        )

    def round(self) -> None:
        """Load, an event, and a check of everything; BreachError if anything is not as it must be."""
        self._start()
        (kind,) = self._random.choices(list(self._kinds), list(self._kinds.values()))
        if kind == "year":
            self._year()
        else:
            with Load(self._callers()) as load:
                load.wait(self._random.uniform(0.5, 2.0))
                self._happen(kind, load)
        self.kills[kind] += 1
        self._check_servers()
        self._inspector.look(self.ledgers, at_rest=all(node.server is None for node in self._nodes))

    def load(self, seconds: float) -> None:
        """Load alone, and a check of everything."""
        self._start()
        with Load(self._callers()) as load:
            load.wait(seconds)
        self._check_servers()
        self._inspector.look(self.ledgers, at_rest=False)

    def close(self) -> None:
        """Stop everything."""
        for node in self._nodes:
            self._end(node)
        self._pair.stop()

    # -- what happens -----------------------------------------------------------------------------------------------

    def _happen(self, kind: str, load: Load) -> None:
        node = self._random.choice(self._nodes)
        assert node.server is not None
        if kind in ("worker", "workers"):
            for worker in sorted(node.server.workers())[: 1 if kind == "worker" else None]:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            load.wait(self._random.uniform(0.1, 1.0))
        elif kind == "node":
            self._end(node)
            load.wait(self._random.uniform(0.1, 1.5))
        elif kind == "nodes":
            load.stop()
            for each in self._nodes:
                self._end(each)
        elif kind == "cut":
            self._cut(load)
        else:
            if kind == "database":
                self._pair.restart()
            else:
                self._pair.promote()
            self._installation.wait_until_ready()
            load.wait(self._random.uniform(0.1, 1.0))
            if kind == "promote":
                self._pair.follow()

    def _cut(self, load: Load) -> None:
        """Cut the last node's connections to the database: at commits, before or after the server has them, or all."""
        if self._random.random() < 0.3:
            for proxy in self._installation.proxies:
                proxy.cut()
            load.wait(self._random.uniform(0.2, 2.0))
            for proxy in self._installation.proxies:
                proxy.mend()
            self._installation.wait_until_ready()
            return
        for _ in range(3):
            before = self._random.random() < 0.5
            for proxy in self._installation.proxies:
                proxy.cut_before, proxy.cut_after = before, not before
            load.wait(self._random.uniform(0.05, 0.4))
            for proxy in self._installation.proxies:
                proxy.cut_before = proxy.cut_after = False
            load.wait(self._random.uniform(0.05, 0.4))

    def _year(self) -> None:
        """All nodes find rotations due at the same time, and one dies of it: each key is rotated once."""
        for node in self._nodes:
            self._end(node)
        self._shift.offset += timedelta(days=366)
        self._years += 1
        for ledger in self.ledgers:
            ledger.jump()
        self._start()
        commands = [threading.Thread(target=self._maintain, args=(node,)) for node in self._nodes]
        for each in commands:
            each.start()
        for each in commands:
            each.join()
        with self._opened() as kms:
            until(lambda: not kms.operator.maintain().busy, LEASE_SECONDS + START_SECONDS)
            for key_id in self._yearly:
                found = self._rotations(kms, key_id)
                if found != self._years:
                    raise BreachError(f"{key_id} was rotated {found} times in {self._years} years")

    def _maintain(self, node: Node) -> None:
        """Do what is due by a command of a node, which may be killed at it."""
        fuse = self._random.choice((None, None, self._random.uniform(0.3, 3.0)))
        with suppress(UnansweredError):
            CommandCaller(node.site, self._shift, lambda: fuse).run("maintain")

    @staticmethod
    def _rotations(kms: Kms, key_id: str) -> int:
        return len(kms.list_key_rotations(ListKeyRotationsRequest(key_id=key_id)).rotations)

    # -- servers ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for node in self._nodes:
            if node.server is None:
                node.start(self._workers, **self._shift.environment())
        self._installation.wait_until_ready()

    @staticmethod
    def _end(node: Node) -> None:
        """Kill all processes of a node."""
        if node.server is not None:
            with suppress(ProcessLookupError):
                os.killpg(node.server.process.pid, signal.SIGKILL)
            node.server.process.wait(STOP_SECONDS)
            node.server = None

    def _check_servers(self) -> None:
        for node in self._nodes:
            if node.server is None:
                continue
            if node.server.process.poll() is not None or "Traceback" in node.server.log_text:
                raise BreachError(f"{node.site.name} said: {node.server.log_text[-3000:]}")

    def _callers(self) -> list[tuple[Actor, Caller]]:
        clients: list[tuple[Actor, Caller]] = [
            (actor, NodesCaller(self._installation, self._shift, str(self._random.random()))) for actor in self._actors
        ]
        return [*clients, (self._commander, CommandCaller(self._installation.first, self._shift, lambda: None))]
