"""Create fresh tokens of any PKCS#11 module, and describe the module's limits for the device suite.

One small class per module is derived from ``Driver``; ``table.py`` lists them. A driver finds its module, creates fresh
tokens, and names what its tokens cannot do. It installs nothing: scripts/token-matrix does.
"""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self

import msgspec
from msgspec import Struct
from pkcs11.constants import TokenFlag

from hsmkms.hsm.device import DeviceSettings, TokenDevice
from hsmkms.hsm.serials import serial_of
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.module import Module
from hsmkms.hsm.session.token_choice import TokenChoice

PIN: Final = "correct horse"
SO_PIN: Final = "battery staple"
LABEL: Final = "hsmkms test"
LIBRARY_FOLDERS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


class NotInstalledError(Exception):
    """The module, or a program that serves it, is not on this machine; the message says what to install."""


class NotPossibleError(Exception):
    """The tokens of this module cannot be created as a test needs them; the message says why."""


class Token(Struct, frozen=True, kw_only=True):
    """A token, and the folder that is the state folder of its devices."""

    module: Path
    folder: Path
    label: str
    serial: str
    environment: dict[str, str]
    reserved: str | None = None
    pin: str = PIN
    so_pin: str = SO_PIN
    new_pin: str = "another PIN"
    """PIN to which a test may change the present one."""

    def settings(self, **changes: object) -> DeviceSettings:
        """Return the settings for this token; ``changes`` are members of DeviceSettings."""
        usual = DeviceSettings(
            module=self.module,
            choice=TokenChoice(label=self.label, serial=self.serial or None),
            state_dir=self.folder,
            environment=self.environment,
            init_reserved=self.reserved,
        )
        return msgspec.structs.replace(usual, **changes)

    def load(self) -> Module:
        """Load the token's module as its devices do; the caller releases it."""
        return modules.acquire(self.module, environment=self.environment, reserved=self.reserved)

    def open(self, **changes: object) -> TokenDevice:
        """Open the token; the caller closes it."""
        return TokenDevice.open(self.settings(**changes), lambda: self.pin)

    def add_token(self, label: str) -> None:
        """Create a second token beside this one; NotPossibleError if the module supports only one."""
        del label
        raise NotPossibleError("no second token can be made here: the module under test has one alone")

    def spied(self, spy: Path, log: Path) -> Self:
        """Return the same token through ``pkcs11-spy``, which logs calls to ``log``. For separate processes only."""
        watched = {"PKCS11SPY": str(self.module), "PKCS11SPY_OUTPUT": str(log)}
        return msgspec.structs.replace(self, module=spy, environment=self.environment | watched)


class Reason(NamedTuple):
    """Why tests do not apply to a module, or may be refused on it. ``pattern`` is a regular expression."""

    pattern: str
    reason: str


class Driver(ABC):
    """A PKCS#11 module under test. ``module``: its file, if it is not the one that ``find`` returns.

    ``excluded``: tests that do not apply to this module, by their node ids, with the reason. ``refused``: refusals of
    hsmkms itself (UnsupportedOperationException, TokenUnfitError) that are known of this module, by their sentences:
    a test that ends with one is skipped with the reason, and with any other refusal it fails. ``failed_checks``: the
    checks of ``token-check`` that this module is known to fail.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """Its name in the guide."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Its Debian packages; the first one has its version."""
    files: ClassVar[tuple[str, ...]] = ()
    """Paths of the module, below the folders of libraries."""
    excluded: ClassVar[tuple[Reason, ...]] = ()
    refused: ClassVar[tuple[Reason, ...]] = ()
    failed_checks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, module: Path | None = None) -> None:
        self.module = module or self.find()

    def find(self) -> Path:
        """Find the module where distributions put it; raises NotInstalledError."""
        for folder in map(Path, LIBRARY_FOLDERS):
            for file in self.files:
                if (folder / file).is_file():
                    return folder / file
        wanted = f"install {' '.join(self.packages)}" if self.packages else "name its file with --hsm-module"
        raise NotInstalledError(f"{self.title} is not installed: {wanted}")

    @abstractmethod
    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Create a fresh token in an empty folder. The driver's other tokens may be gone afterwards."""

    def close(self, folder: Path) -> None:  # noqa: B027 - most modules serve their tokens by files alone
        """Stop the processes that serve the token of ``folder``, before its folder is removed."""

    def exclusion(self, node_id: str) -> str | None:
        """Return why a test does not apply to this module, or None if it does."""
        return _first(self.excluded, node_id)

    def refusal(self, sentence: str) -> str | None:
        """Return the reason if hsmkms is known to refuse something on this module with this sentence."""
        return _first(self.refused, sentence)


def _first(reasons: tuple[Reason, ...], text: str) -> str | None:
    return next((each.reason for each in reasons if re.search(each.pattern, text)), None)


def initialise(token: Token) -> Token:
    """Initialise a token in the first empty slot of a module that was configured for it; return it with its serial."""
    loaded = token.load()
    try:
        free = [slot for slot in loaded.slots() if not slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED]
        assert free, f"{token.module} has no empty slot for a token"
        code = loaded.cryptoki.init_token(free[0].slot_id, token.so_pin, token.label)
        assert code == 0, f"C_InitToken: CKR {code:#x}"
    finally:
        loaded.release()
    return set_pin(token, token.so_pin)


def set_pin(token: Token, so_pin: str) -> Token:
    """Set the user PIN of the one token with this label; return it with its serial."""
    loaded = token.load()
    try:
        # Not by TokenChoice: without a PIN some tokens do not call themselves initialised.
        (found,) = [each for each in (slot.get_token() for slot in loaded.slots()) if each.label == token.label]
        session = found.open(rw=True, so_pin=so_pin)
        session.init_pin(token.pin)
        session.close()
        return msgspec.structs.replace(token, serial=serial_of(found))
    finally:
        loaded.release()
