"""Power cuts: whatever of the WAL is on the disk, the database opens, is whole, and has what was answered by then."""

import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import examples
import pytest
from msgspec import Struct
from msgspec.structs import replace
from service_sites import REGION, NewSite, Site, StoppedClock, new_alias, new_key, seal, unseal

from hsmkms.kms import Kms
from hsmkms.model.keys import DescribeKeyRequest, UpdateKeyDescriptionRequest
from hsmkms.service.runtime.core import Core
from hsmkms.store import leases
from hsmkms.store.engine import Store
from hsmkms.wiring import core as wiring

pytestmark = pytest.mark.sqlite_alone("it cuts SQLite's WAL; a server has its own")

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
        for number in range(examples.count(suite=2, long=6)):
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
    assert len(boundaries) > 4 * len(scene.answered)
    lengths = [
        *boundaries,
        *(boundary + offset for boundary in boundaries[:-1:3] for offset in (1, 23, 24, frame // 2)),
    ]
    for number, length in enumerate(sorted(lengths)):
        for torn in (b"", bytes(frame)) if number % 3 == 0 else (b"",):
            folder = tmp_path / "cut"
            folder.mkdir(mode=0o700)
            for name in ("meta.db", "log.db"):
                shutil.copy2(scene.kept / name, folder / name)
            (folder / "meta.db-wal").touch(0o600)
            (folder / "meta.db-wal").write_bytes(wal[:length] + torn)
            present = names(folder)
            answered = {name for size, name in scene.answered if size <= length}
            assert answered <= present
            shutil.rmtree(folder)


def test_work_goes_on(cut: tuple[Site, Cut], clock: StoppedClock) -> None:
    """After a cut in the middle the installation opens, every key works, and the token has nothing unknown."""
    site, scene = cut
    wal = (scene.kept / "wal").read_bytes()
    shutil.copy2(scene.kept / "meta.db", scene.folder / "meta.db")
    (scene.folder / "meta.db-wal").touch(0o600)
    (scene.folder / "meta.db-wal").write_bytes(wal[: len(wal) // 2])
    with site.open(clock) as kms:
        assert_works(kms)


def assert_works(kms: Kms) -> None:
    """Assert that the first alias encrypts and decrypts, and that reconcile finds no differences."""
    sealed = seal(kms, "alias/a0")
    assert unseal(kms, sealed) == b"secret"
    assert kms.describe_key(DescribeKeyRequest(key_id="alias/a0")).key_metadata.enabled
    assert kms.operator.find_differences() == []


# -- all files together -----------------------------------------------------------------------------------------------

FILES = ("meta.db-wal", "log.db-wal", "audit/lane-0001.00000001.jsonl")


class Moment(Struct, frozen=True):
    """How long the files were when something was answered, and what was answered by then."""

    sizes: tuple[int, ...]
    aliases: frozenset[str]
    encryptions: int
    records: int


def sizes(folder: Path) -> tuple[int, ...]:
    """How long the files are now."""
    return tuple((folder / name).stat().st_size if (folder / name).exists() else 0 for name in FILES)


def moments_of(kms: Kms, key_id: str, folder: Path) -> list[Moment]:
    """Changes and encryptions in turns, and the moments at which they were answered."""
    moments, aliases = list[Moment](), frozenset[str]()
    for number in range(1, 15):
        seal(kms, key_id)
        if number % 3 == 0:
            new_alias(kms, f"alias/m{number}", key_id)
            aliases |= {f"alias/m{number}"}
        moments.append(Moment(sizes(folder), aliases, number, number + len(aliases)))
    return moments


def test_cut_of_all_files(new_site: NewSite, clock: StoppedClock, tmp_path: Path) -> None:
    """Each file may be written further than another: acknowledged changes are there, counted and audited."""
    site = new_site()
    folder, kept = site.settings.data_dir, tmp_path / "kept"
    with site.open(clock) as kms:
        key_id = new_key(kms).key_id
        material_id = kms._core.cache.key(REGION, key_id).current_material_id  # type: ignore[union-attr]
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("softhsm", "processes"))
    with site.open(clock) as kms:
        before = len(lines(folder))
        moments = moments_of(kms, key_id, folder)
        whole = {name: (folder / name).read_bytes() for name in FILES}
        draw = random.Random(7)  # noqa: S311 - lengths of files
        assert len(moments) == 14
        for number, moment in enumerate(moments):
            place = tmp_path / f"cut-{number}"
            shutil.copytree(kept, place)
            for name, length in zip(FILES, cut_after(moment, moments, draw), strict=True):
                (place / name).touch(0o600)
                (place / name).write_bytes(whole[name][:length])
            check_cut(site, clock, place, moment, material_id, before)
            shutil.rmtree(place)


def cut_after(moment: Moment, moments: list[Moment], draw: random.Random) -> tuple[int, ...]:
    """How much of the files a power cut may leave: the audit log has no change that is not on the disk."""
    ends = moments[-1].sizes
    meta, log = (draw.randint(moment.sizes[each], ends[each]) for each in (0, 1))
    audit = max(each.sizes[2] for each in moments if each.sizes[0] <= meta)
    return meta, log, draw.randint(moment.sizes[2], audit)


def check_cut(site: Site, clock: StoppedClock, place: Path, moment: Moment, material_id: str, before: int) -> None:
    """Open what is left; it is closed as if it were killed, so that the token remembers nothing of it."""
    core = wiring.core_of(replace(site.settings, data_dir=place), clock)
    try:
        assert moment.aliases <= names(place)
        assert leases.total(core.store, material_id) >= moment.encryptions
        kms = Kms(core)
        assert kms.operator.find_differences() == []
        assert unseal(kms, seal(kms, material_key(core, material_id))) == b"secret"
        assert len(lines(place)) >= before + moment.records + 2
        assert kms.operator.audit.verify().faults == []
        assert kms.operator.audit.verify_rows() == []
    finally:
        core.cache.close()
        core.store.close()
        core.tokens.close()


def lines(folder: Path) -> list[bytes]:
    """The records of the audit log's only lane."""
    return (folder / FILES[2]).read_bytes().splitlines()


def material_key(core: Core, material_id: str) -> str:
    """The id of the key of a material."""
    with core.store.reading() as conn:
        query = "SELECT key_id FROM material WHERE material_id = ?"
        return str(conn.exec_driver_sql(query, (material_id,)).scalar_one())
