"""Several nodes on one PostgreSQL database and one SoftHSM token, and clients that go from one to another."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from calls import Answer, HttpCaller, Shift, UnansweredError
from cli_site import ACCOUNT, OTHER_REGION, REGION, Site
from msgspec import Struct
from node_sites import Joining
from postgresql_pair import Pair
from postgresql_proxy import Proxy
from served import Served, credentials, set_in, start
from waiting import until

BOUND_SECONDS: Final = 1.0
"""After so long a change counts on every node that reaches the database."""

READ_ONLY: Final = ("Encrypt", "Decrypt", "GetParametersForImport")
MOVES: Final = 0.1
"""How often a client goes to another node for no reason."""


class Node(Struct):
    """A data folder and its server, if one runs."""

    site: Site
    server: Served | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it says that it can answer requests."""
        try:
            return self.server is not None and self.server.page("/readyz")[0] == 200
        except (OSError, AssertionError):
            return False

    def start(self, workers: int, **environment: str) -> None:
        """Start its server, without waiting for it."""
        self.server = start(self.site, "--workers", workers, **environment)


class Installation:
    """The nodes of an installation; the last one is connected to the database through proxies."""

    def __init__(self, folder: Path, pair: Pair, count: int) -> None:
        self.pair = pair
        first = Site(folder=folder, name="node-1")
        where = ("--data-dir", first.data, "--account-id", ACCOUNT, "--region", REGION, "--region", OTHER_REGION)
        made = first.run("init", "--create-softhsm-token", *where, "--store-url", pair.url())
        assert made.status == 0, made
        self.proxies, behind = self._proxies(folder)
        self.nodes = [Node(first)]
        for number in range(2, count + 1):
            site = Site(folder=folder, name=f"node-{number}")
            url = behind if number == count else pair.url()
            options = Joining(first, url).options()
            joined = site.run("join", "--data-dir", site.data, *options, "--region", REGION, "--region", OTHER_REGION)
            assert joined.status == 0, joined
            self.nodes.append(Node(site))
        for node in self.nodes:
            set_in(node.site, "log_requests = false")
        made, _ = credentials(first, ("create_access_key", {"user_name": None}), ("create_user", {"name": "alice"}))
        self.access_key = (made["access_key_id"], made["secret_access_key"])

    def _proxies(self, folder: Path) -> tuple[list[Proxy], str]:
        """A proxy before each server, and the URL of the database behind them."""
        places = [folder / f"proxy-{each.name}" for each in self.pair.folders]
        for place in places:
            place.mkdir()
        proxies = [Proxy(place, server) for place, server in zip(places, self.pair.folders, strict=True)]
        return proxies, self.pair.url(places)

    @property
    def first(self) -> Site:
        """The node whose folder has the token."""
        return self.nodes[0].site

    def wait_until_ready(self, nodes: Sequence[Node] | None = None) -> None:
        """Wait until nodes are ready; none of their servers may have ended."""

        def ready() -> bool:
            for node in nodes or self.nodes:
                assert node.server is not None
                assert node.server.process.poll() is None, node.server.log_text
            return all(node.is_ready for node in nodes or self.nodes)

        until(ready)


class NodesCaller:
    """A client of one node at a time, which goes to another one at times, and when its own does not answer.

    It waits before it does: until the other node is ready, and until its own last change must count there.
    """

    def __init__(self, installation: Installation, shift: Shift, seed: str) -> None:
        self._nodes = installation.nodes
        self._random = random.Random(seed)  # noqa: S311 - it shall be repeatable
        self._callers = {
            number: HttpCaller(node.server.port, REGION, installation.access_key, shift)
            for number, node in enumerate(self._nodes)
            if node.server is not None
        }
        self._at = self._random.choice(list(self._callers))
        self._last_change = time.monotonic()

    def call(self, operation: str, members: dict[str, Any]) -> Answer:
        """One request to one node. Raises UnansweredError."""
        if self._random.random() < MOVES:
            self._move()
        try:
            return self._callers[self._at].call(operation, members)
        except UnansweredError:
            self.reconnect()
            raise
        finally:
            if operation not in READ_ONLY:
                self._last_change = time.monotonic()

    def reconnect(self) -> None:
        """Go to another node, if one is ready."""
        self._callers[self._at].reconnect()
        self._move()

    def _move(self) -> None:
        others = [number for number in self._callers if number != self._at]
        number = self._random.choice(others or [self._at])
        if not self._nodes[number].is_ready:
            return
        rest = self._last_change + BOUND_SECONDS - time.monotonic()
        if rest > 0:
            time.sleep(rest)
        self._at = number
