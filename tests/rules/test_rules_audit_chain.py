"""The chain of the audit log: each kind of forgery is detected, and reported at its place."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.model.audit import Head
from hsmkms.rules.audit import chain as audit_chain
from hsmkms.rules.audit.chain import Walker, beginning, genesis, link

LANE = "0001"
INSTALLATION = "ab" * 16


def lane(count: int, *, epoch: Callable[[int], int] = lambda _: 7) -> list[bytes]:
    """A lane of so many records."""
    previous, lines = genesis(INSTALLATION, LANE), []
    for number in range(1, count + 1):
        previous, line = link(previous, LANE, number, epoch(number), b'{"eventName":"E%d"}' % number)
        lines.append(line)
    return lines


def walked(lines: list[bytes], sealed: dict[int, str] | None = None, restarts: set[int] | None = None) -> Walker:
    """A walk along the lines from the beginning."""
    start = Head(sequence=0, hash=genesis(INSTALLATION, LANE), segment=0)
    walker = Walker(LANE, start, sealed or {}, restarts or set())
    assert sum(walker.walk(lines)) == sum(map(len, lines))
    walker.finish()
    return walker


def faults(lines: list[bytes], sealed: dict[int, str] | None = None) -> list[tuple[int, str]]:
    """Where and what is wrong."""
    return [(fault.sequence, fault.kind) for fault in walked(lines, sealed).faults]


def hash_of(line: bytes) -> str:
    """The hash that a line states."""
    head = audit_chain.head_of(line, 1)
    assert head is not None
    return head.hash


def test_a_whole_lane() -> None:
    """A chain that was written verifies, and every record is read as it was written."""
    lines = lane(5)
    assert faults(lines, {3: hash_of(lines[2]), 5: hash_of(lines[4])}) == []
    assert [audit_chain.record_of(line) for line in lines] == [b'{"eventName":"E%d"}' % n for n in range(1, 6)]


@pytest.mark.parametrize(
    ("bend", "first"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b"E3", b"EX"), *lines[3:]], (3, "changed")),
        (lambda lines: [*lines[:2], *lines[3:]], (3, "missing")),
        (lambda lines: lines[1:], (1, "missing")),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], (3, "inserted")),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], (3, "missing")),
        (lambda lines: [*lines[:2], b"nonsense\n", *lines[3:]], (3, "unreadable")),
        (lambda lines: [*lines[:2], lines[2].replace(b'"epoch":7', b'"epoch":8'), *lines[3:]], (3, "changed")),
    ],
    ids=["edit", "remove", "behead", "insert", "reorder", "nonsense", "edit of the epoch"],
)
def test_bending(bend: Callable[[list[bytes]], list[bytes]], first: tuple[int, str]) -> None:
    """An edited, removed, inserted or moved record is reported at its place."""
    assert faults(bend(lane(6)))[0] == first


def test_reordered_is_said() -> None:
    """A record that stands behind a later one is called that, and what follows is judged again."""
    lines = lane(6)
    assert (3, "reordered") in faults([*lines[:2], lines[3], lines[2], *lines[4:]])


def test_cut_end() -> None:
    """Records that a seal vouches for are missed."""
    lines = lane(6)
    assert faults(lines[:4], {6: hash_of(lines[5])}) == [(5, "missing")]


def test_rewritten_chain() -> None:
    """A chain that was made again, and is whole in itself, contradicts the old one's seal at the first new place."""
    lines = lane(6)
    other = lane(2)
    previous = hash_of(other[1])
    for number in range(3, 7):
        previous, line = link(previous, LANE, number, 7, b'{"eventName":"forged"}')
        other.append(line)
    assert faults(other) == []
    assert faults(other, {2: hash_of(lines[1]), 6: hash_of(lines[5])}) == [(3, "not as sealed")]


def test_older_database() -> None:
    """An epoch that falls shows a database that was put back, unless the operator has accepted it there."""
    lines = lane(6, epoch=lambda number: 9 if number < 4 else 5)
    assert faults(lines) == [(4, "rolled back")]
    assert walked(lines, restarts={3}).faults == []


def test_other_lanes_and_installations() -> None:
    """A lane of another name or installation does not verify."""
    assert genesis(INSTALLATION, "0001") != genesis(INSTALLATION, "0002") != genesis("cd" * 16, "0002")
    start = Head(sequence=0, hash=genesis(INSTALLATION, "0002"), segment=0)
    walker = Walker("0002", start, {}, set())
    assert sum(walker.walk(lane(1)))
    assert [fault.kind for fault in walker.faults] == ["changed"]


@given(st.integers(0, 5), st.data())
def test_any_changed_byte(which: int, data: st.DataObject) -> None:
    """Whatever byte of a record's line is changed, it or the next one is named."""
    lines = lane(6)
    place = data.draw(st.integers(0, len(lines[which]) - 2))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (lines[which][place], 10)))
    lines[which] = lines[which][:place] + bytes([other]) + lines[which][place + 1 :]
    reported = faults(lines, {6: hash_of(lane(6)[5])})
    assert reported
    assert reported[0][0] in (which + 1, which + 2)


def test_lines_are_json() -> None:
    """A line is one JSON object in one line."""
    (line,) = lane(1)
    assert re.fullmatch(rb'\{"hash":"[0-9a-f]{64}","lane":"0001","sequence":1,"epoch":7,"record":\{.*\}\}\n', line)


def test_a_lane_of_another_node() -> None:
    """A node's lane begins with its id; only one that began before there were nodes may begin without it."""
    own, other = "1" * 32, "2" * 32
    assert len({genesis(INSTALLATION, LANE, node) for node in ("", own, other)}) == 3
    for began, believed in ((own, own), ("", ""), (other, own)):
        _, line = link(genesis(INSTALLATION, LANE, began), LANE, 1, 1, b"{}")
        before = beginning(INSTALLATION, LANE, own, line)
        assert before == genesis(INSTALLATION, LANE, believed)
        walker = Walker(LANE, Head(sequence=0, hash=before, segment=0), {}, set())
        assert [len(line)] == list(walker.walk([line]))
        assert bool(walker.faults) == (began == other)


def test_a_published_end() -> None:
    """A lane that ends before the record that the database knows of, or has another one there, is named."""
    lines = lane(3)
    ends = [(2, "ab" * 32, audit_chain.CHANGED, 2), (5, "", audit_chain.MISSING, 4)]
    for sequence, digest, kind, first in ends:
        start = Head(sequence=0, hash=genesis(INSTALLATION, LANE), segment=0)
        walker = Walker(LANE, start, {3: hash_of(lines[2])}, set(), {sequence: digest})
        list(walker.walk(lines))
        walker.finish()
        assert [(each.kind, each.sequence) for each in walker.faults] == [(kind, first)]
