"""Notes on the token: another process replaces one while they are read."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from devices import permit
from pkcs11.constants import Attribute
from pkcs11.types import Session

from hsmkms.errors import ObjectLostError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects import data_objects
from hsmkms.hsm.objects.handle_keys import HandleObject
from hsmkms.model.permit import OperatorAct

PREFIX = "hsmkms/test/"
Found = list[HandleObject]
Replace = Callable[[Session, Found], Found]


def _after_the_search(session: Session, found: Found) -> Found:
    """Destroy the found object before its value is read."""
    data_objects.keep_note(session, PREFIX, f"{PREFIX}newer", b"newer")
    return found


def _within_the_search(session: Session, found: Found) -> Found:
    """Destroy the older object during the search, which has passed the place of the newer one."""
    _after_the_search(session, found)
    return []


@pytest.mark.parametrize("replace", [_after_the_search, _within_the_search])
def test_replaced_while_it_is_read(device: TokenDevice, replace: Replace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever another process replaces a note, a reader gets the older or the newer one, never none."""
    seal = permit(OperatorAct.SEAL)
    device.own.replace_note(seal, PREFIX, f"{PREFIX}older", b"older")
    search = data_objects.search

    def once(session: Session, wanted: Mapping[Attribute, Any]) -> Found:
        found_objects = search(session, wanted)
        monkeypatch.setattr(data_objects, "search", search)
        return replace(session, found_objects)

    monkeypatch.setattr(data_objects, "search", once)
    assert device.own.notes(seal, PREFIX) == {f"{PREFIX}newer": b"newer"}


def test_lost_each_time(device: TokenDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that lists an object repeatedly, but never returns its value, is given up after some attempts."""
    seal = permit(OperatorAct.SEAL)
    device.own.replace_note(seal, PREFIX, f"{PREFIX}older", b"older")
    search, searches = data_objects.search, list[Mapping[Attribute, Any]]()

    def always(session: Session, wanted: Mapping[Attribute, Any]) -> Found:
        searches.append(wanted)
        found_objects = search(session, wanted)
        if len(searches) == 1:
            found_objects[0].destroy()
            destroyed.extend(found_objects)
        return destroyed

    destroyed: Found = []
    monkeypatch.setattr(data_objects, "search", always)
    with pytest.raises(ObjectLostError):
        device.own.notes(seal, PREFIX)
    assert 1 < len(searches) < 100


def test_note_that_is_still_there(device: TokenDevice) -> None:
    """A note that was read is recognised by its handle, label and value; one that was replaced or not read is not."""
    seal = permit(OperatorAct.SEAL)
    label = f"{PREFIX}noted"
    device.own.replace_note(seal, PREFIX, label, b"value")
    assert not device.own.holds_note(seal, label, b"value"), "it was not read yet"
    device.own.notes(seal, PREFIX)
    assert device.own.holds_note(seal, label, b"value")
    assert not device.own.holds_note(seal, f"{PREFIX}others", b"value")
    assert not device.own.holds_note(seal, label, b"another")
    device.own.notes(seal, PREFIX)
    device.own.replace_note(seal, PREFIX, f"{PREFIX}newer", b"value")
    assert not device.own.holds_note(seal, label, b"value")
