"""The budget of bytes that clients may occupy in a worker, and how large a request of each operation may be."""

import base64
import json
import resource
from typing import cast

import botocore.session
import pytest

from hsmkms.config.settings import ServeSettings
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.sizes import SMALL_REQUEST_BYTES, largest_request
from hsmkms.server.process.connection import Connection, Handler
from hsmkms.server.process.connections import OTHER_FILES, TRIM_AGAIN, TRIM_CLOSED, Connections, connections_of
from hsmkms.server.process.limits import MAX_BODY_BYTES
from hsmkms.server.process.memory import MemoryBudget


class Client:
    """A connection that occupies memory; ``evicted`` has the names of those that were closed for it."""

    def __init__(self, name: str, evicted: list[str]) -> None:
        self.name = name
        self._evicted = evicted

    def evict(self) -> None:
        """Note it."""
        self._evicted.append(self.name)


def test_the_oldest_is_evicted() -> None:
    """Beyond the budget those are given up that have been unfinished for longest, however busy they are."""
    evicted: list[str] = []
    budget = MemoryBudget(100)
    first, second, third = (Client(name, evicted) for name in ("first", "second", "third"))
    budget.hold(first, 10)
    budget.hold(second, 40)
    budget.hold(first, 50)
    budget.hold(third, 10)
    assert (evicted, budget.occupied) == ([], 100)
    budget.hold(third, 11)
    assert (evicted, budget.occupied) == (["first"], 51)


def test_who_occupies_everything_goes() -> None:
    """One that needs more than the whole budget is given up itself, after all others."""
    evicted: list[str] = []
    budget = MemoryBudget(100)
    budget.hold(Client("first", evicted), 10)
    budget.hold(Client("greedy", evicted), 101)
    assert (evicted, budget.occupied) == (["first", "greedy"], 0)


def test_complete_requests_stay() -> None:
    """Complete requests evict unfinished ones, and are refused where other complete ones wait."""
    evicted: list[str] = []
    budget = MemoryBudget(100)
    budget.hold(Client("unfinished", evicted), 50)
    assert budget.take(60)
    assert evicted == ["unfinished"]
    assert not budget.take(60)
    budget.release(60)
    assert budget.take(60)
    assert budget.occupied == 60


def test_memory_is_given_back_after_a_peak() -> None:
    """Only where much less is occupied than before there is something to give back, and once for each peak."""
    budget = MemoryBudget(100 * 2**20)
    client = Client("one", [])
    budget.hold(client, 50 * 2**20)
    assert not budget.fallen()
    budget.hold(client, 0)
    assert budget.fallen()
    assert not budget.fallen()


def test_memory_is_given_back_after_connections() -> None:
    """Also where many connections came and went between two checks, and some seconds later, when all is released."""
    connections = Connections()
    made = [Connection(cast("Handler", None), connections, lambda: 0.0) for _ in range(TRIM_CLOSED)]
    assert not connections.memory_is_free()
    for each in made:
        connections.add(each)
    for each in made:
        connections.discard(each)
    assert [connections.memory_is_free() for _ in range(TRIM_AGAIN + 2)] == [True] * (TRIM_AGAIN + 1) + [False]


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (ServeSettings(), 1024 - OTHER_FILES),
        (ServeSettings(max_connections=300), 300),
        (ServeSettings(max_connections=5000), 1024 - OTHER_FILES),
    ],
    ids=["default", "setting", "too many"],
)
def test_connections_within_open_files(settings: ServeSettings, most: int) -> None:
    """A worker never serves more connections than it may have files open, less those that it needs itself."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        assert connections_of(settings).most == most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_a_largest_request(operation: Operation) -> None:
    """Each may have 64 KiB, and none more than is ever read."""
    assert SMALL_REQUEST_BYTES < largest_request(operation) <= MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ("Encrypt", {"Plaintext": base64.b64encode(bytes(4096)).decode(), "EncryptionContext": {"k": "\u00e9" * 8000}}),
        ("PutKeyPolicy", {"Policy": "\u00e9" * 32_768}),
        ("CreateKey", {"Policy": '"' * 32_768, "Description": "\u00e9" * 8192}),
        ("TagResource", {"Tags": [{"TagKey": "\u00e9" * 128, "TagValue": "\u00e9" * 256}] * 50}),
        ("Decrypt", {"Recipient": {"AttestationDocument": base64.b64encode(bytes(262_144)).decode()}}),
        (
            "ImportKeyMaterial",
            {name: base64.b64encode(bytes(6144)).decode() for name in ("ImportToken", "EncryptedKeyMaterial")},
        ),
    ],
)
def test_the_largest_that_the_api_takes(operation: str, members: dict[str, object]) -> None:
    """What the API takes at its limits is small enough, with every key id and grant token that goes with it."""
    common = {"KeyId": "k" * 2048, "GrantTokens": ["t" * 8192] * 10}
    model = botocore.session.get_session().get_service_model("kms").operation_model(operation)
    fitting = {name: value for name, value in common.items() if name in model.input_shape.members}
    assert len(json.dumps(fitting | members)) <= largest_request(Operation(operation))


def test_a_small_operation_stays_small() -> None:
    """What has no large member may have little more than any other."""
    assert largest_request(Operation.LIST_KEYS) < 2 * SMALL_REQUEST_BYTES
    assert largest_request(Operation.ENCRYPT) < 3 * SMALL_REQUEST_BYTES
