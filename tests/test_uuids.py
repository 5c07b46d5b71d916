"""UUIDs that are drawn a block at a time."""

import os
import uuid

from hsmkms import uuids


def test_they_are_uuids() -> None:
    """Each is of version 4 and of its own, over many blocks."""
    drawn = [uuids.new() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    read = [uuid.UUID(each) for each in drawn]
    assert {(each.version, each.variant) for each in read} == {(4, uuid.RFC_4122)}
    assert [str(each) for each in read] == drawn


def test_a_child_draws_its_own() -> None:
    """What the parent has fetched ahead is not given away a second time in a forked child."""
    uuids.new()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(uuids.new() for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    child_uuid = os.read(reading, 65536).decode()
    os.close(reading)
    assert len(child_uuid) == 20 * 36
    assert not any(uuids.new() in child_uuid for _ in range(100))
