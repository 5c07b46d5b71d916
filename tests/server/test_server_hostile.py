"""Hostile input: ten thousand wrong requests, and what hypothesis makes of the model."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hostile import MODEL, Attacker, Report, Server, Talk, development_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS

REQUESTS = 10_000
WARM_UP = 2_000
SEED = 20_260_102
MOST_GROWN = 32 * 2**20
"""Bytes: what caches take in, not what eight thousand requests would leave behind."""

UNREAD = {"InvalidSignatureException", "IncompleteSignatureException", "UnrecognizedClientException"}
"""What is answered before a body is read."""

MEMBERS = sorted({name for each in MODEL.shape_names for name in getattr(MODEL.shape_for(each), "members", ())})

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40)
names = st.sampled_from(MEMBERS) | st.text(max_size=10)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that is attacked, and must not have complained of itself in the end."""
    with development_server() as server:
        yield server
        assert server.complaints() == []


def test_ten_thousand(server: Server) -> None:
    """No wrong request gives a server's error, no answer, or a worker that grows."""
    attacker = Attacker(server.endpoint, SEED)
    report = Report()
    attacker.attack(WARM_UP, report)
    before = server.memory()
    attacker.attack(REQUESTS - report.sent, report)
    assert report.faults == []
    assert report.sent >= REQUESTS
    assert report.codes["SerializationException"] > 100
    assert report.codes["ValidationException"] > 100
    assert server.memory() - before < MOST_GROWN


@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.dictionaries(names, values, max_size=5)), max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_members(server: Server, requests: list[tuple[Operation, dict[str, Any]]]) -> None:
    """Any JSON under any member's name is answered, and never by a server's error."""
    assert_answered(server, [(operation, msgspec.json.encode(members)) for operation, members in requests])


@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.binary(max_size=200)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_bytes(server: Server, requests: list[tuple[Operation, bytes]]) -> None:
    """Any bytes for a body are answered, and never by a server's error."""
    assert_answered(server, requests)


def assert_answered(server: Server, requests: list[tuple[Operation, bytes]]) -> None:
    """Send signed requests on one connection; assert that each gets a response that is no server error."""
    attacker = Attacker(server.endpoint, SEED)
    report = Report()
    raw = [attacker.signed(operation, body) for operation, body in requests]
    with Talk(attacker.address) as connection:
        connection.send(b"".join(raw))
        for each in raw:
            attacker.judge(each, connection.answer, report)
    assert (report.faults, report.sent) == ([], len(requests))
    assert not report.codes.keys() & UNREAD, "the signature was refused, so nothing behind it has been tried"
