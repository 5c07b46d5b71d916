"""Creation of a SoftHSM token for the installation."""

import stat
from pathlib import Path

import pytest
from devices import SO_PIN, MakeToken, SoftHsm, new_key

from hsmkms.errors import ConfigurationError, ModuleError, TokenError
from hsmkms.hsm.session import softhsm


def test_token_is_private(token: SoftHsm) -> None:
    """Token folder and configuration are accessible to their owner only."""
    configuration = Path(token.environment["SOFTHSM2_CONF"])
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
    assert stat.S_IMODE((configuration.parent / "tokens").stat().st_mode) == 0o700


def test_several_folders(make_token: MakeToken) -> None:
    """Each folder has a token with its own serial."""
    assert make_token("one").serial != make_token("one").serial


def test_token_in_use_is_left_alone(token: SoftHsm) -> None:
    """A folder that holds a token is refused, and the token still has its keys and its PIN."""
    device = token.open()
    key = new_key(device)
    device.close()
    with pytest.raises(ConfigurationError, match="there already"):
        softhsm.create(token.module, token.folder, label="x", user_pin="12345678", so_pin="12345678")
    device = token.open()
    assert device.keys.holds(key)


@pytest.mark.parametrize("label", ["L" * 33, "ü" * 17, ""])
def test_label_must_fit(token: SoftHsm, tmp_path: Path, label: str) -> None:
    """A label of more than the 32 bytes of CK_TOKEN_INFO is refused before anything is created."""
    with pytest.raises(ConfigurationError, match="label"):
        softhsm.create(token.module, tmp_path, label=label, user_pin="12345678", so_pin="12345678")
    assert list(tmp_path.iterdir()) == []


def test_longest_label(make_token: MakeToken) -> None:
    """A label of 32 bytes, also of fewer characters, is kept whole and found again."""
    for label in ("L" * 32, "ü" * 16):
        device = make_token(label).open()
        assert device.profile.label == label
        device.close()


def test_refused_pin_of_the_officer(token: SoftHsm, tmp_path: Path) -> None:
    """A security officer's PIN that SoftHSM refuses is a TokenError with its CKR code."""
    with pytest.raises(TokenError, match="C_InitToken: CKR 0x"):
        softhsm.create(token.module, tmp_path, label="x", user_pin="12345678", so_pin="1")


def test_missing_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SoftHSM is not installed, the error names the package."""
    monkeypatch.setattr(softhsm, "MODULE_PATHS", ("/nowhere/libsofthsm2.so",))
    with pytest.raises(ModuleError, match="install the package softhsm2"):
        softhsm.find_module()


def test_pins_are_not_written(token: SoftHsm) -> None:
    """Neither PIN is in any file of the token."""
    for path in token.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert token.pin.encode() not in content
            assert SO_PIN.encode() not in content
