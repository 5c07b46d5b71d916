"""Power cuts: whatever of the WAL is on the disk, the database opens, is whole, and has what was answered by then."""

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_sites import NewSite, Site, StoppedClock, new_alias, new_key, seal, unseal

from hsmkms.model.keys import DescribeKeyRequest, UpdateKeyDescriptionRequest
from hsmkms.service.kms import Kms
from hsmkms.store.engine import Store

WAL_HEADER, FRAME_HEADER = 32, 24
"""Bytes; https://www.sqlite.org/fileformat2.html#the_write_ahead_log."""


class Cut:
    """Where the databases were before, and how long the WAL was when something was answered."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self.folder = folder
        self.kept = kept
        self.answered: list[tuple[int, str]] = []

    def note(self, what: str) -> None:
        """It was answered now."""
        self.answered.append(((self.folder / "meta.db-wal").stat().st_size, what))


@pytest.fixture
def cut(new_site: NewSite, clock: StoppedClock, tmp_path: Path) -> Iterator[tuple[Site, Cut]]:
    """A site, and copies of its databases from before and after a series of changes without a checkpoint between."""
    site = new_site()
    folder = site.settings.data_dir
    before = tmp_path / "before"
    before.mkdir(mode=0o700)
    with site.open(clock) as kms:
        key = new_key(kms)
    assert not (folder / "meta.db-wal").exists()  # the last connection has brought it all into the database
    for name in ("meta.db", "log.db"):
        shutil.copy2(folder / name, before / name)
    cut = Cut(folder, before)
    with site.open(clock) as kms:
        for number in range(6):
            new_alias(kms, f"alias/a{number}", key.key_id)
            cut.note(f"alias/a{number}")
            kms.update_key_description(UpdateKeyDescriptionRequest(key_id=key.key_id, description=str(number)))
        shutil.copy2(folder / "meta.db-wal", before / "wal")
    yield site, cut
    shutil.rmtree(before)


def names(folder: Path) -> set[str]:
    """Open the databases as hsmkms does; their aliases, if nothing is wrong with them."""
    store = Store.open(folder)
    try:
        with store.reading() as conn:
            assert [row[0] for row in conn.exec_driver_sql("PRAGMA integrity_check")] == ["ok"]
            assert list(conn.exec_driver_sql("PRAGMA foreign_key_check")) == []
            return {row[0] for row in conn.exec_driver_sql("SELECT name FROM alias")}
    finally:
        store.close()


def test_every_cut(cut: tuple[Site, Cut], tmp_path: Path) -> None:
    """At each boundary of a frame of the WAL, inside frames, and with a torn last frame."""
    _, scene = cut
    wal = (scene.kept / "wal").read_bytes()
    frame = FRAME_HEADER + struct.unpack(">I", wal[8:12])[0]
    boundaries = range(WAL_HEADER, len(wal) + 1, frame)
    assert len(boundaries) > 20
    lengths = [*boundaries, *(each + offset for each in boundaries[:-1:3] for offset in (1, 23, 24, frame // 2))]
    for number, length in enumerate(sorted(lengths)):
        for torn in (b"", bytes(frame)) if number % 3 == 0 else (b"",):
            folder = tmp_path / "cut"
            folder.mkdir(mode=0o700)
            for name in ("meta.db", "log.db"):
                shutil.copy2(scene.kept / name, folder / name)
            (folder / "meta.db-wal").touch(0o600)
            (folder / "meta.db-wal").write_bytes(wal[:length] + torn)
            found = names(folder)
            answered = {name for size, name in scene.answered if size <= length}
            assert answered <= found
            shutil.rmtree(folder)


def test_work_goes_on(cut: tuple[Site, Cut], clock: StoppedClock) -> None:
    """After a cut in the middle the installation opens, every key works, and the token has nothing unknown."""
    site, scene = cut
    wal = (scene.kept / "wal").read_bytes()
    shutil.copy2(scene.kept / "meta.db", scene.folder / "meta.db")
    (scene.folder / "meta.db-wal").touch(0o600)
    (scene.folder / "meta.db-wal").write_bytes(wal[: len(wal) // 2])
    with site.open(clock) as kms:
        works(kms)


def works(kms: Kms) -> None:
    """Encrypt and decrypt under the first alias; reconcile finds nothing."""
    sealed = seal(kms, "alias/a0")
    assert unseal(kms, sealed) == b"secret"
    assert kms.describe_key(DescribeKeyRequest(key_id="alias/a0")).key_metadata.enabled
    assert kms.operator.find_differences() == []
