"""The audit logs of several nodes: each has its own, and what it has published is in the seals of all."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli_site import NewFolder, Site
from node_sites import Joining, node_of
from postgresql_cluster import Cluster, name_of
from psycopg import Connection


@pytest.fixture
def second(place: Site, joining: Joining) -> Site:
    """Another node, which has joined."""
    assert joining.run(place).status == 0
    return place


@pytest.fixture
def admin(cluster: Cluster, on_server: str) -> "Iterator[Connection[tuple[Any, ...]]]":
    """A connection of whoever can write to the database."""
    with cluster.connect(name_of(on_server)) as connection:
        yield connection


@pytest.fixture
def place_of_third(new_folder: NewFolder) -> Site:
    """Where a third node's data folder may be made."""
    site = Site(folder=new_folder())
    site.folder.mkdir()
    return site


def shorten(site: Site, lines: int, torn: bytes = b"") -> None:
    """Remove the last lines of a node's log, but for some bytes."""
    path = max((site.data / "audit").glob("lane-0001.*.jsonl"))
    kept = path.read_bytes().splitlines(keepends=True)[:-lines]
    path.write_bytes(b"".join(kept) + torn)


def verified(site: Site, *arguments: object) -> tuple[int, dict[str, Any], str]:
    """The status of `audit verify`, its answer, and what it says is wrong or not proven, in one text."""
    done = site.run("audit", "verify", *arguments)
    answer = json.loads(done.stdout)
    named = [*answer["Faults"], *answer["Unproven"]]
    return done.status, answer, "\n".join(f"{each['Lane']} {each['Kind']}: {each['Detail']}" for each in named)


def faults(site: Site) -> str:
    """What `audit verify` says is wrong, in one text."""
    status, _, text = verified(site)
    assert status == (1 if text else 0), text
    return text


def doctor(site: Site) -> str:
    """What `doctor` says of the audit log."""
    checks = json.loads(site.run("doctor").stdout)["Checks"]
    return next(str(each["Detail"]) for each in checks if each["Check"] == "audit log")


def test_both_verify(first: Site, second: Site, admin: "Connection[tuple[Any, ...]]") -> None:
    """Nodes write and seal in turns without taking one another's notes, lanes or records for their own."""
    for site in (first, second, first, second):
        site.new_key()
    for site in (first, second):
        assert faults(site) == ""
        names = [each["eventName"] for each in site.run("audit", "tail", "-n", "50").json["Records"]]
        assert names.count("CreateKey") == 2
    rows = admin.execute("SELECT node_id, lane FROM audit_head ORDER BY 1").fetchall()
    assert rows == sorted([(node_of(first), "0001"), (node_of(second), "0001")])
    assert admin.execute("SELECT count(*) FROM audit_outbox").fetchone() == (0,)


def test_a_node_that_dies(first: Site, second: Site) -> None:
    """What it has published must be there when it comes back; what it wrote after that is protected by nothing."""
    second.program("die_writing", 2, 1)
    shorten(second, 1, b'{"hash":"torn')
    assert faults(second) == ""
    assert second.run("audit", "verify").json["Unsealed"] > 0
    second.program("die_writing", 2, 1)
    shorten(second, 2)
    assert "were published by their node, and are not there any more" in faults(second)
    assert "the database knows" in doctor(second)
    assert second.run("create-key").status == 0  # the log goes on with other records in their place
    assert "is not the record that its node has published" in faults(second)
    assert second.run("accept-store", "--yes").status == 0
    assert faults(second) == faults(first) == ""


def test_a_node_from_its_backup(first: Site, second: Site) -> None:
    """An older copy of a data folder contradicts the database; nothing else of the installation does."""
    second.new_key()
    backup = second.folder / "backup"
    shutil.copytree(second.data / "audit", backup)
    second.new_key()
    shutil.rmtree(second.data / "audit")
    shutil.copytree(backup, second.data / "audit")
    found = faults(second)
    assert "were published by their node, and are not there any more" in found
    assert "the token remembers seal" in found
    first.new_key()
    assert faults(first) == ""
    assert second.run("accept-store", "--yes").status == 0
    assert faults(second) == ""
    assert first.run("maintain").status == 0
    assert faults(first) == ""


def test_rows_by_hand(first: Site, second: Site, admin: "Connection[tuple[Any, ...]]") -> None:
    """The others name a node whose published end was removed, put back or edited, and go on sealing their own logs."""
    second.new_key()
    older = admin.execute("SELECT * FROM audit_head WHERE node_id = %s", (node_of(second),)).fetchone()
    assert older is not None
    second.new_key()
    first.new_key()

    def remove() -> None:
        admin.execute("DELETE FROM audit_head WHERE node_id = %s", (node_of(second),))

    def put_back() -> None:
        remove()
        admin.execute("INSERT INTO audit_head VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", older)

    def edit() -> None:
        admin.execute(
            "UPDATE audit_head SET sequence = sequence + 5, published_at = 1::bigint << 62 WHERE node_id = %s",
            (node_of(second),),
        )

    ways: dict[str, Callable[[], None]] = {
        "does not know any more": remove,
        "by the database": put_back,
        "is not by hsmkms": edit,
    }
    for words, bend in ways.items():
        bend()
        _, before, found = verified(first)
        assert found.startswith(f"{node_of(second)[:8]}/0001"), words
        assert words in found
        assert f"node {node_of(second)} ({second.data} on " in found, words
        assert first.run("create-key").status == 0
        _, after, found = verified(first)
        assert after["Seals"] > before["Seals"], words
        assert words in found, "a seal has hidden it"
    assert "is not by hsmkms" in (said := doctor(first))
    assert node_of(second) in said
    assert "is not by hsmkms" in faults(second)
    assert second.run("create-key").status == 0
    assert "is not by hsmkms" in faults(second), "it was taken over by its own node"
    assert second.run("accept-store", "--yes").status == 0
    assert faults(second) == faults(first) == ""


def test_logs_that_change_places(first: Site, second: Site) -> None:
    """Another node's log, with its seals, is none of this node's."""
    first.new_key()
    second.new_key()
    shutil.rmtree(second.data / "audit")
    shutil.copytree(first.data / "audit", second.data / "audit")
    found = faults(second)
    assert f"it is of another node, {node_of(first)}" in found
    assert faults(first) == ""


def test_gathered(first: Site, second: Site) -> None:
    """Logs are proven together, by either node, from data folders and from copies; what a copy lacks is named."""
    first.new_key()
    second.new_key()
    first.new_key()  # its seal covers what the second node has published
    copy = first.folder / "copy"
    shutil.copytree(second.data / "audit", copy)
    for site, other in ((first, second.data), (second, first.data / "audit"), (first, copy)):
        status, answer, wrong = verified(site, "--gather", other)
        assert (status, wrong) == (0, ""), other
        assert {each["Node"] for each in answer["Nodes"]} == {node_of(first), node_of(second)}
        assert answer["Records"] == sum(each["Records"] for each in answer["Nodes"])
        assert all(each["First"] <= each["Last"] for each in answer["Nodes"])
    second.new_key()
    status, _, wrong = verified(first, "--gather", copy)
    assert status == 1
    assert "were published by their node, and are not there any more" in wrong
    assert "the token remembers seal" in wrong
    assert verified(first, "--gather", copy, "--copied-at", "2020-01-01")[0] == 0
    assert "is verified already" in first.run("audit", "verify", "--gather", copy, "--gather", second.data).error
    assert "has no audit log" in first.run("audit", "verify", "--gather", first.folder).error
    assert "name them by --gather" in first.run("audit", "verify", "--without", node_of(second)).error


def test_a_log_that_is_lost(first: Site, second: Site, place_of_third: Site, joining: Joining) -> None:
    """It is named with how many records it had at least; leaving it out is said, not assumed."""
    assert joining.run(place_of_third).status == 0
    for site in (first, second, place_of_third):
        site.new_key()
    status, _, wrong = verified(first, "--gather", second.data)
    assert status == 3
    assert f"{node_of(place_of_third)[:8]} not proven: the audit log of node {node_of(place_of_third)} (" in wrong
    assert "records, is not here" in wrong
    assert verified(first, "--gather", second.data, "--without", node_of(place_of_third))[0] == 0


def test_gathered_after_an_attack(first: Site, second: Site, admin: "Connection[tuple[Any, ...]]") -> None:
    """A log that was put back with its seals and its row in the database is contradicted by another log."""
    second.new_key()
    older = shutil.copytree(second.data / "audit", second.folder / "older")
    row = admin.execute("SELECT * FROM audit_head WHERE node_id = %s", (node_of(second),)).fetchone()
    assert row is not None
    second.new_key()
    first.new_key()
    admin.execute("DELETE FROM audit_head WHERE node_id = %s", (node_of(second),))
    admin.execute("INSERT INTO audit_head VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", row)
    status, _, wrong = verified(first, "--gather", older, "--copied-at", "9999-12-31")  # no note of the token counts
    assert status == 1
    assert f"{node_of(second)[:8]}/0001 missing: records" in wrong
    swapped = first.folder / "swapped"
    shutil.copytree(second.data / "audit", swapped)
    for segment in (first.data / "audit").glob("lane-0001.*.jsonl"):
        shutil.copy(segment, swapped)
    status, _, wrong = verified(first, "--gather", swapped)
    assert status == 1
    assert f"{node_of(second)[:8]}/0001 changed" in wrong
    (swapped / "seals.jsonl").unlink()
    assert "does not say whose log it is" in first.run("audit", "verify", "--gather", swapped).error


def test_back_to_one_node(first: Site, second: Site) -> None:
    """After a move of the store into files of one node, it is no fault that the others publish nothing any more."""
    second.new_key()
    first.new_key()
    assert first.run("migrate-store", "--to", "sqlite").status == 0
    lines = first.config.read_text().splitlines(keepends=True)
    first.config.write_text("".join(each for each in lines if not each.startswith("url = ")))
    first.new_key()
    assert faults(first) == ""
