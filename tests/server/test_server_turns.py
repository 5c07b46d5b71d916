"""Requests of one turn of the event loop share a look at what others have changed, if they had begun to come before."""

import json
import os
import subprocess
import sys
from typing import Any, cast

import pytest
from conftest import NewSite
from served import PROGRAMS, SECONDS, credentials

from hsmkms.server.aws.errors import refusal
from hsmkms.server.aws.protocol import success
from hsmkms.server.messages import RawRequest, Refusal, Respond, Response
from hsmkms.server.process import connection as module
from hsmkms.server.process.connection import Connection
from hsmkms.server.process.connections import Connections

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


class Place:
    """A connection whose requests are answered at once, or not before somebody says so."""

    def __init__(self, everybody: set[Connection] | None = None, *, at_once: bool = True) -> None:
        self.in_turn: list[bool] = []
        self.at_once = at_once
        self.respond: Respond | None = None
        connections = Connections()
        connections.open = everybody if everybody is not None else set()
        self.connection = Connection(self, connections, lambda: 0.0)
        self.connection.connection_made(cast("Any", self))

    def __call__(self, request: RawRequest, address: str, respond: Respond) -> None:
        """Note what a request says of its coming."""
        assert address == "127.0.0.1"
        self.in_turn.append(request.in_turn)
        self.respond = respond
        if self.at_once:
            respond(success(b"", "id"))

    def largest_body(self, head: RawRequest) -> int:
        """No large body is taken."""
        del head
        return 0

    def refusal(self, refused: Refusal) -> Response:
        """As clients of AWS read it."""
        return refusal(refused)

    def get_extra_info(self, name: str) -> Any:  # noqa: ANN401 - as asyncio says it
        """The peer."""
        return ("127.0.0.1", 4242) if name == "peername" else None

    def is_closing(self) -> bool:
        """Never."""
        return False

    def pause_reading(self) -> None:
        """What comes now waits."""

    def resume_reading(self) -> None:
        """It is read again."""

    def write(self, data: bytes) -> None:
        """Nobody reads it."""
        assert data.startswith(b"HTTP/1.1 200 ")


def test_one_at_a_time() -> None:
    """A request that came alone, whole or in pieces, had begun before the turn in which it is answered."""
    place = Place()
    place.connection.data_received(REQUEST)
    place.connection.data_received(REQUEST[:20])
    place.connection.data_received(REQUEST[20:])
    assert place.in_turn == [True, True]


def test_sent_ahead() -> None:
    """Of what came together only the first one is sure to have begun before; the rest of it makes no second one so."""
    place = Place()
    place.connection.data_received(REQUEST * 3 + REQUEST[:-1])
    place.connection.data_received(REQUEST[-1:] + REQUEST)
    assert place.in_turn == [True, False, False, True, False]


def test_answered_later() -> None:
    """A request that must wait for the answer of the one before it is answered in another turn."""
    place = Place(at_once=False)
    place.connection.data_received(REQUEST)
    place.connection.data_received(REQUEST)
    assert place.in_turn == [True]
    assert place.respond is not None
    place.respond(success(b"", "id"))
    assert place.in_turn == [True, False]


def test_more_than_the_kernel_tells_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many connections that the loop asks the kernel twice in a turn, each request looks by itself."""
    monkeypatch.setattr(module, "MAX_IN_A_TURN", 2)
    everybody: set[Connection] = set()
    first, second = Place(everybody), Place(everybody)
    first.connection.data_received(REQUEST)
    third = Place(everybody)
    for each in (first, second, third):
        each.connection.data_received(REQUEST)
    assert (first.in_turn, second.in_turn, third.in_turn) == ([True, False], [False], [False])


@pytest.mark.parametrize(
    ("words", "after", "ahead"),
    [((), [200], [200, 400]), (("secure",), [400], [400, 400])],
    ids=["plain", "secure"],
)
def test_a_change_within_a_turn(new_site: NewSite, words: tuple[str], after: list[int], ahead: list[int]) -> None:
    """A key that is disabled during a turn: only requests that had begun before may be answered; over TLS none."""
    site = new_site()
    (made,) = credentials(site, ("create_access_key", {"user_name": None}))
    done = subprocess.run(
        [sys.executable, PROGRAMS / "turns.py", site.config, made["access_key_id"], made["secret_access_key"], *words],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        env=site.environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == [[200], after, ahead, [400]]
