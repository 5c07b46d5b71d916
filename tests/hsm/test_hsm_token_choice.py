"""Choice of a token by the names that it reports; two that fit are refused."""

import threading

import pytest
from devices import SoftHsm, new_key
from msgspec.structs import replace

from hsmkms.errors import TokenNotFoundError
from hsmkms.hsm.session.token_choice import TokenChoice, tokens


def serials(token: SoftHsm) -> list[str]:
    """Return the serials of all tokens beside this one."""
    module = token.load()
    try:
        return [each.serial.decode() for each in tokens(module)]
    finally:
        module.release()


@pytest.mark.parametrize("names", [("label",), ("serial",), ("label", "serial"), ("model", "manufacturer", "serial")])
def test_fits_what_was_asked_for(token: SoftHsm, names: tuple[str, ...]) -> None:
    """A token is chosen by each of its names, alone or together."""
    token.add_token("another")
    facts = {"label": token.label, "serial": token.serial, "model": "SoftHSM v2", "manufacturer": "SoftHSM project"}
    device = token.open(choice=TokenChoice(**{name: facts[name] for name in names}))
    assert (device.profile.label, device.profile.serial) == (token.label, token.serial)


def test_any_token(token: SoftHsm) -> None:
    """An empty choice fits the only token; slots without an initialised token do not count."""
    assert token.open(choice=TokenChoice()).profile.serial == token.serial


@pytest.mark.parametrize("change", [{"label": "hsmkms tes"}, {"serial": "0" * 16}, {"model": "x"}, {"slot_id": 99}])
def test_none_fits(token: SoftHsm, change: dict[str, str]) -> None:
    """One name that does not fit suffices to refuse; the error lists the wanted names and the present tokens."""
    wanted = replace(token.settings().choice, **change)
    with pytest.raises(TokenNotFoundError) as caught:
        token.open(choice=wanted)
    (name, value) = change.popitem()
    assert f"{name} {value!r}" in str(caught.value)
    assert f"label {token.label!r} serial {token.serial!r}" in str(caught.value)


def test_two_with_one_label(token: SoftHsm) -> None:
    """Two tokens with one label are refused by label with the advice to add the serial, and distinguished by serial."""
    token.add_token(token.label)
    with pytest.raises(TokenNotFoundError, match=r"2 tokens fit label 'hsmkms test': add the serial"):
        token.open(choice=TokenChoice(label=token.label))
    present = serials(token)
    assert len(present) == 2
    for serial in present:
        device = token.open(choice=TokenChoice(label=token.label, serial=serial))
        assert device.profile.serial == serial
        device.close()


def test_token_that_was_not_shown_at_first(token: SoftHsm) -> None:
    """A token that a module could not read when it was loaded is found after the module is loaded again.

    SoftHSM writes to a token at each login; a process that loads it at this instant never sees it.
    """
    tokens_folder = token.folder / "tokens"
    (stored,) = tokens_folder.iterdir()
    hidden = token.folder / "hidden"
    stored.rename(hidden)
    timer = threading.Timer(0.1, lambda: hidden.rename(stored))
    timer.start()
    assert token.open().profile.serial == token.serial
    timer.join()


def test_slots_move(token: SoftHsm) -> None:
    """After other tokens were created, a token named by label and serial is the same one with the same keys."""
    device = token.open()
    key = new_key(device)
    slots = {device.connection.token.slot.slot_id}
    device.close()
    for number in range(3):
        token.add_token(f"another {number}")
    device = token.open()
    assert device.keys.holds(key)
    assert device.profile.serial == token.serial
    assert len(serials(token)) == 4
    assert slots
