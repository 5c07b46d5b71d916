"""The record of what HA members lack, under attack: it stays true whatever becomes of rows, files and processes."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from groups import SECOND_SERIAL, replicate
from service_sites import new_key, seal, unseal
from test_service_ha_group import PATIENCE, Grouped, answers, in_use, is_refused, until
from test_service_ha_record import behind, clock, folders, kms, recorded

from hsmkms.errors import TokenUnavailableError
from hsmkms.hsm.session import unreplicated
from hsmkms.kms import Kms
from hsmkms.service.operator.reconcile import Finding, Kind, Mended

__all__ = ["behind", "clock", "kms"]


def edit(behind: Grouped, statement: str) -> None:
    """Change rows beside hsmkms."""
    with closing(sqlite3.connect(behind.settings.data_dir / "meta.db")) as connection, connection:
        for name in ("hsmkms_seals", "hsmkms_seal_sets"):
            connection.create_function(name, 0, lambda: None)
        assert connection.execute(statement).rowcount > 0


def place(behind: Grouped) -> Path:
    """The folder of the record."""
    return behind.settings.data_dir / unreplicated.FOLDER


def test_key_that_is_made_during_the_check(behind: Grouped, kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that another thread makes while the sweeper checks the record stays recorded."""
    behind.group.second.fail()
    first = new_key(kms).key_id
    connection = kms._core.device.connection
    read: Callable[[], dict[str, list[bytes]]] = connection.unreplicated
    made: list[str] = []

    def read_late() -> dict[str, list[bytes]]:
        made.append(new_key(kms).key_id)
        return read()

    monkeypatch.setattr(connection, "unreplicated", read_late)
    kms.operator.maintain()
    monkeypatch.undo()
    assert len(made) > 1
    assert recorded(kms) == sorted([first, *made])


def test_edited_rows(behind: Grouped, kms: Kms) -> None:
    """Rows by which a key is destroyed do not end its record, since a member has the key."""
    behind.group.second.fail()
    key_id = new_key(kms).key_id
    edit(behind, "UPDATE token_object SET status = 'DESTROYED' WHERE material IS NOT NULL")
    kms.operator.maintain()
    edit(behind, "UPDATE token_object SET status = 'PRESENT' WHERE material IS NOT NULL")
    assert recorded(kms) == [key_id]


def adopted(kms: Kms) -> tuple[Finding, Mended]:
    """Adopt the one key that was not acknowledged."""
    (finding,) = [each for each in kms.operator.find_differences() if each.kind is Kind.UNACKNOWLEDGED]
    return finding, kms.operator.mend(finding)


def test_adopted_key(behind: Grouped, kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of a process that died before it asked the members is adopted as one that these may lack."""

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(kms._core.device.connection, "require_replicated", die)
        with pytest.raises(SystemExit):
            new_key(kms)
    with pytest.raises(TokenUnavailableError, match=r"not acknowledged"):
        adopted(kms)
    behind.group.second.fail()
    finding, mended = adopted(kms)
    assert mended is Mended.ADOPTED
    assert recorded(kms) == [finding.key_id]


def test_forged_files(behind: Grouped, kms: Kms) -> None:
    """Files that hsmkms did not write are no record; forged ones of keys that nobody has or needs are removed."""
    second = behind.group.second
    second.fail()
    key_id = new_key(kms).key_id
    (true,) = place(behind).iterdir()
    member, _, cka_id = true.name.partition("-")
    for name in (
        f"{member}-{cka_id.upper()}A",
        f"{member}-",
        f"{member}-zz",
        f"{member}- 00",
        "x",
        f"{member}-{cka_id}0",
    ):
        (place(behind) / name).touch()
    (place(behind) / f"{member}-00").mkdir()
    (place(behind) / f"{member}-01").symlink_to(true)
    (place(behind) / f"{member}-{'ab' * 16}").touch()
    assert recorded(kms) == [key_id]
    second.order()
    until(lambda: is_refused(kms), PATIENCE)
    replicate(*folders(behind))
    assert recorded(kms) == []


def test_record_that_cannot_be_read(behind: Grouped, kms: Kms, caplog: pytest.LogCaptureFixture) -> None:
    """Without the record members are used and take over as ever; the log says that it is not known what they lack."""
    group = behind.group
    sealed = seal(kms, new_key_of_both(behind, kms))
    place(behind).touch()
    with behind.opened() as other:
        assert unseal(other, sealed) == b"secret"
    group.first.fail()
    until(lambda: answers(kms, sealed), PATIENCE)
    assert in_use(kms) == SECOND_SERIAL
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert any("which keys the members of the HA group may lack is not known" in each for each in errors)


def new_key_of_both(behind: Grouped, kms: Kms) -> str:
    """Create a key that both members have; its id."""
    behind.group.second.fail()
    key_id = new_key(kms).key_id
    behind.group.second.order()
    until(lambda: is_refused(kms), PATIENCE)
    replicate(*folders(behind))
    assert recorded(kms) == []
    place(behind).rmdir()
    return key_id
