"""The archive in a backup: every tar program reads what is written, and nothing is obeyed that a hostile one holds."""

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hsmkms.errors import StoreError
from hsmkms.store.archive import END, ArchiveReader, ArchiveWriter, Member

DATABASES = {"meta.db": os.urandom(100_000), "log.db": bytes(512)}
CONTENTS = {"audit": b"", **DATABASES, "inventory.json": b"[]", "note": b"kept"}
KEPT = {"note": 100, "inventory.json": 0}


def written(contents: dict[str, bytes]) -> bytes:
    """A valid archive."""
    writer = ArchiveWriter()
    parts = [block for name, data in contents.items() for block in writer.add(name, len(data), io.BytesIO(data))]
    return b"".join([*parts, END])


def unpack(folder: Path, data: bytes, step: int = 1000) -> ArchiveReader:
    """Feed an archive to a reader in parts; return its result."""
    with ArchiveReader(folder, lambda name: name in ("meta.db", "log.db", "audit"), KEPT) as reader:
        for start in range(0, len(data), step):
            reader.write(data[start : start + step])
        reader.finish()
    return reader


@pytest.mark.parametrize("step", [1, 511, 512, 65536, 1_000_000])
def test_round_trip(tmp_path: Path, step: int) -> None:
    """Files come back whole and private, however the archive is cut; the list says size and SHA-256 of each."""
    reader = unpack(tmp_path, written(CONTENTS), step)
    assert reader.members == [
        Member(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in CONTENTS.items()
    ]
    assert reader.kept == {"note": b"kept"}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        name: CONTENTS[name] for name in ("audit", "meta.db", "log.db")
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_other_programs_read_it(tmp_path: Path) -> None:
    """Python's tarfile and tar itself unpack it."""
    data = written(CONTENTS)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == list(CONTENTS)
    subprocess.run(["tar", "--extract", "--directory", tmp_path], input=data, check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == CONTENTS


def test_older_archives_are_read(tmp_path: Path) -> None:
    """What tarfile writes as a stream, as older versions did, is read as well."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w|") as archive:
        for name, data in CONTENTS.items():
            add(archive, name, data)
    assert len(unpack(tmp_path, made.getvalue()).members) == len(CONTENTS)


def test_a_file_that_shrinks() -> None:
    """A file that has become shorter is named: the archive would be no archive."""
    with pytest.raises(StoreError, match=r"log\.db has become shorter"):
        list(ArchiveWriter().add("log.db", 10, io.BytesIO(b"123456789")))


# -- hostile archives -----------------------------------------------------------------------------------------------


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    """A member of any kind."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, link
    archive.addfile(member, io.BytesIO(data))


def made_of(*members: Callable[[tarfile.TarFile], None], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive with such members."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for member in members:
            member(archive)
    return made.getvalue()


def sparse() -> bytes:
    """A file that claims to be 8 GiB of holes (GNU sparse)."""
    block = bytearray(written({"meta.db": b""})[:512])
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[483:495] = b"77777777777\0"
    return checked(block) + END


def sized(size: bytes) -> bytes:
    """A file that claims to have that size."""
    block = bytearray(written({"meta.db": b""})[:512])
    block[124:136] = size
    return checked(block) + END


def checked(block: bytearray) -> bytes:
    """A header with the checksum that it needs."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


GOOD = written({"meta.db": b"x"})
HOSTILE = {
    "symlink": (made_of(lambda a: add(a, "meta.db", kind=tarfile.SYMTYPE, link="/etc/passwd")), "no plain file"),
    "hard link": (made_of(lambda a: add(a, "meta.db", kind=tarfile.LNKTYPE, link="/etc/passwd")), "no plain file"),
    "device": (made_of(lambda a: add(a, "meta.db", kind=tarfile.CHRTYPE)), "no plain file"),
    "block device": (made_of(lambda a: add(a, "meta.db", kind=tarfile.BLKTYPE)), "no plain file"),
    "fifo": (made_of(lambda a: add(a, "meta.db", kind=tarfile.FIFOTYPE)), "no plain file"),
    "folder": (made_of(lambda a: add(a, "audit", kind=tarfile.DIRTYPE)), "no plain file"),
    "sparse": (sparse(), "no plain file"),
    "extension header": (made_of(lambda a: add(a, "ä" * 60)), "no plain file"),
    "long name": (made_of(lambda a: add(a, "x" * 200), form=tarfile.GNU_FORMAT), "no plain file"),
    "symlink, then through it": (
        made_of(lambda a: add(a, "audit", kind=tarfile.SYMTYPE, link="/tmp"), lambda a: add(a, "audit/x")),  # noqa: S108
        "no plain file",
    ),
    "parent": (made_of(lambda a: add(a, "../meta.db")), "no backup of this version has"),
    "parent inside": (made_of(lambda a: add(a, "audit/../../meta.db")), "no backup of this version has"),
    "absolute": (made_of(lambda a: add(a, "/tmp/meta.db")), "no backup of this version has"),  # noqa: S108
    "journal": (made_of(lambda a: add(a, "meta.db-wal")), "no backup of this version has"),
    "control characters": (made_of(lambda a: add(a, "\x1b[2Jmeta.db")), r"'\\x1b\[2Jmeta.db', which no backup"),
    "twice": (GOOD[: -len(END)] + GOOD, "'meta.db' twice"),
    "kept twice": (made_of(lambda a: add(a, "note", b"1"), lambda a: add(a, "note", b"2")), "'note' twice"),
    "too long to keep": (made_of(lambda a: add(a, "note", bytes(101))), "has 101 bytes, 100 at most"),
    "huge to keep": (sized(b"\x80" + b"\0" * 3 + b"\xff" * 8).replace(b"meta.db", b"note\0\0\0", 1), "cannot be read"),
    "huge": (sized(b"\x80" + b"\0" * 3 + b"\x0f" + b"\xff" * 7), "has no end"),
    "negative": (sized(b"\xff" * 11 + b"\x00"), "no plain file"),
    "no size": (sized(b"99999999999\0"), "cannot be read"),
    "no header": (b"\1" * 512 + END, "cannot be read"),
    "cut": (GOOD[:512], "has no end"),
    "without an end": (GOOD[: -len(END)], "has no end"),
    "bytes in the padding": (GOOD[:600] + b"!" + GOOD[601:], "bytes that belong to no file"),
    "bytes at the end": (GOOD + b"!", "bytes that belong to no file"),
    "members behind the end": (GOOD + GOOD, "bytes that belong to no file"),
    "nothing": (b"", "has no end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(tmp_path: Path, name: str) -> None:
    """An entry that is not one plain file of a backup is refused, and nothing is written outside of the folder."""
    data, words = HOSTILE[name]
    folder = tmp_path / "inner" / "folder"
    folder.mkdir(parents=True)
    with pytest.raises(StoreError, match=words):
        unpack(folder, data)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert {path.name for path in folder.iterdir()} <= {"meta.db"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= len(data)
