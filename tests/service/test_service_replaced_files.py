"""Databases that are moved away or replaced under a running process: it answers nothing of both any more."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from service_sites import NewSite, Site, new_key, seal, unseal
from test_service_backup import back_up, lose, restore

from hsmkms.errors import ConfigurationError, StoreError
from hsmkms.kms import Kms

pytestmark = pytest.mark.sqlite_alone("it moves the files of databases")

REPLACED = "was moved away or replaced while this process had it open"


@pytest.fixture
def site(new_site: NewSite) -> Site:
    """A fresh installation."""
    return new_site()


def replace_databases(site: Site) -> None:
    """Put copies in the place of the databases, as a careless restore by hand does."""
    for each in site.folder.glob("*.db*"):
        aside = Path(f"{each}.aside")
        each.rename(aside)
        if not each.name.endswith("-shm"):
            shutil.copy2(aside, each)


def test_nothing_cached_is_used(site: Site) -> None:
    """What was admitted before is refused once the files were looked at, since no change would reach it any more."""
    with site.open() as kms:
        key_id = new_key(kms).key_id
        sealed = seal(kms, key_id)
        kms.operator.watch.check_files()
        replace_databases(site)
        for check in (kms.operator.maintain, kms.operator.watch.check_files, kms.operator.watch.check_database):
            with pytest.raises(StoreError, match=REPLACED):
                check()
        for act in (lambda: seal(kms, key_id), lambda: unseal(kms, sealed), lambda: new_key(kms)):
            with pytest.raises(StoreError, match=REPLACED):
                act()
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"


def test_no_connection_to_another_database(site: Site) -> None:
    """A connection that is opened later is not to the new database while older ones are to the old one."""
    with site.open() as kms, ExitStack() as stack:
        replace_databases(site)
        with pytest.raises(StoreError, match=REPLACED):
            open_several(stack, kms)


def open_several(stack: ExitStack, kms: Kms) -> None:
    """Read in more connections than any pool has idle."""
    for _ in range(100):
        stack.enter_context(kms._core.store.reading())


def test_missing_database(site: Site) -> None:
    """One that was moved away is reported in the same way; its return ends that only for processes that start then."""
    with site.open() as kms:
        database = site.folder / "log.db"
        database.rename(site.folder / "aside")
        with pytest.raises(StoreError, match=f"log.db {REPLACED}"):
            kms.operator.watch.check_files()
        (site.folder / "aside").rename(database)
        for check in (kms.operator.watch.check_files, kms.operator.watch.check_database, kms.operator.maintain):
            with pytest.raises(StoreError, match=f"log.db {REPLACED}"):
                check()  # requests are refused, so it is not ready either
    with site.open() as kms:
        kms.operator.watch.check_database()


def test_restore_beside_a_running_process(site: Site) -> None:
    """A restore is refused while a process still has the old installation open, whose files were moved away."""
    with site.open() as kms:
        sealed = seal(kms, new_key(kms).key_id)
    backup = back_up(site)
    with site.open():
        lose(site)
        with pytest.raises(ConfigurationError, match=r"processes have the installation open \(pid [0-9]+\): stop them"):
            restore(site, backup)
        assert not list(site.folder.glob("*.db"))
    restore(site, backup)
    with site.open() as kms:
        assert unseal(kms, sealed) == b"secret"
