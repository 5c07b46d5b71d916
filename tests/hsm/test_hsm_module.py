"""Loading a PKCS#11 module: locking, refusals, one state per process."""

import os
from pathlib import Path

import pytest
import spylog
from devices import MakeToken, Token
from msgspec import _core

from hsmkms.errors import ConfigurationError, ModuleError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.return_codes import CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_OK
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.cryptoki import Cryptoki
from hsmkms.hsm.session.token_choice import TokenChoice, tokens

CKR_CRYPTOKI_NOT_INITIALIZED = 0x190


def test_locking_is_asked_for(main_job: spylog.MainJob) -> None:
    """C_Initialize is called once, with CKF_OS_LOCKING_OK; python-pkcs11's own call, which lacks it, is left out."""
    (only,) = spylog.named(main_job.calls, "C_Initialize")
    assert "CKF_OS_LOCKING_OK" in only.text
    assert only.returned == "CKR_OK"


def test_module_is_finalised(main_job: spylog.MainJob) -> None:
    """Closing the last device logs out once and finalises the module once, as the last call of all."""
    assert main_job.calls[-1].name == "C_Finalize"
    assert len(spylog.named(main_job.calls, "C_Finalize")) == 1
    assert len(spylog.named(main_job.calls, "C_Logout")) == 1


def test_missing_file(tmp_path: Path) -> None:
    """A path without a file is a ModuleError that names the path and the setting."""
    with pytest.raises(ModuleError, match=r"no PKCS#11 module at .*/nothing\.so: .*token\.module"):
        modules.acquire(tmp_path / "nothing.so")


def test_folder_is_no_module(tmp_path: Path) -> None:
    """A folder is refused like a missing file."""
    with pytest.raises(ModuleError, match="no PKCS#11 module"):
        modules.acquire(tmp_path)


def test_text_is_no_module(tmp_path: Path) -> None:
    """A file that the loader cannot load is a ModuleError, not an OSError."""
    text = tmp_path / "module.so"
    text.write_text("no library")
    with pytest.raises(ModuleError, match="cannot be loaded as a PKCS#11 module"):
        modules.acquire(text)


def test_other_library_is_no_module() -> None:
    """A shared library without C_GetFunctionList is a ModuleError, and nothing stays open."""
    with pytest.raises(ModuleError, match="cannot be loaded as a PKCS#11 module"):
        modules.acquire(Path(_core.__file__))
    assert not modules._registry._open


def test_wrong_environment(token: Token, tmp_path: Path) -> None:
    """A module that refuses to start is a ModuleError with its CKR code; with the right environment it starts."""
    with pytest.raises(ModuleError, match=r"C_Initialize: CKR_[A-Z_]+\): SOFTHSM2_CONF of token\.environment names"):
        modules.acquire(token.module, environment={"SOFTHSM2_CONF": str(tmp_path / "nothing.conf")})
    token.open().close()


def test_reserved_reaches_the_module(token: Token) -> None:
    """PReserved is passed on: SoftHSM, which allows none, answers CKR_ARGUMENTS_BAD."""
    with pytest.raises(ModuleError, match=r"CKR_ARGUMENTS_BAD\): check its variables"):
        token.open(init_reserved="configDir='nowhere'")


def test_missing_folder_in_the_parameters(token: Token) -> None:
    """A quoted path in the parameters that is not there is named, since the module's code says nothing of it."""
    with pytest.raises(ModuleError, match=r"token\.init_reserved names /no where, which is missing"):
        token.open(init_reserved="configdir='sql:/no where' certPrefix='' flags=")


def test_second_environment_is_refused(device: TokenDevice, token: Token, tmp_path: Path) -> None:
    """While a module is open, another environment for it is refused, and the open device still works."""
    with pytest.raises(ConfigurationError, match=r"another token\.environment"):
        token.open(environment={"SOFTHSM2_CONF": str(tmp_path / "other.conf")})
    assert os.environ["SOFTHSM2_CONF"] == token.environment["SOFTHSM2_CONF"]
    assert device.connection.limits() is not None


def test_second_reserved_is_refused(device: TokenDevice, token: Token) -> None:
    """While a module is open, other parameters of C_Initialize are refused: they would have no effect."""
    with pytest.raises(ConfigurationError, match=r"another token\.init_reserved"):
        token.open(init_reserved="configDir='/nowhere'")
    assert device.connection.limits() is not None


def test_configuration_is_read_again(make_token: MakeToken) -> None:
    """SoftHSM reads SOFTHSM2_CONF at each start, so a process can use one configuration after the other."""
    first, second = make_token("first"), make_token("second")
    for token in (first, second, first):
        device = token.open()
        assert [each.label for each in tokens(device.connection.module)] == [token.label]
        device.close()


def test_last_user_finalises(token: Token) -> None:
    """A module is shared by all its users and finalised by the last one only."""
    first = token.load()
    second = token.load()
    assert first is second
    first.release()
    assert [each.label for each in tokens(second)] == [token.label]
    second.release()
    assert second.cryptoki.finalize() == CKR_CRYPTOKI_NOT_INITIALIZED


def test_symbolic_links_are_one_module(token: Token, tmp_path: Path) -> None:
    """Two paths to one file are one module: it has one state in the process."""
    link = tmp_path / "link.so"
    link.symlink_to(token.module)
    first = token.load()
    assert modules.acquire(link, environment=token.environment, reserved=token.reserved) is first


def test_module_of_others_is_refused(token: Token) -> None:
    """A module that another part of the process initialised, maybe without locking, is refused and left alone."""
    os.environ.update(token.environment)
    others = Cryptoki(str(token.module))
    assert others.initialize(None) == CKR_OK
    with pytest.raises(ModuleError, match="initialised by another part of this process"):
        token.open()
    assert others.initialize(None) == CKR_CRYPTOKI_ALREADY_INITIALIZED
    assert others.finalize() == CKR_OK
    token.open().close()


def test_failed_opening_leaves_nothing(token: Token) -> None:
    """An opening that fails after the module was loaded releases the module."""
    with pytest.raises(Exception, match="no token fits"):
        token.open(choice=TokenChoice(label="another"))
    assert not modules._registry._open


def test_description(device: TokenDevice) -> None:
    """The profile has the module's own description and version."""
    assert device.profile.library.startswith("SoftHSM Implementation of PKCS11 2.")
