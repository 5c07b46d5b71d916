"""Further tokens for an installation of the tests: a second one, like another vendor's, and clones of its own."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hsmkms.config import settings as config
from hsmkms.config.settings import TokenSettings

LABEL = "new hsm"
PIN = "another horse"
SO_PIN = "another staple"
CLONE_SERIAL = "c10ec10ec10ec10e"
TOKEN_SERIAL = 0x8000534A


def add(file: Path, *, own_module: bool = False, label: str = LABEL, folder: str = "other-hsm") -> None:
    """Make a token and name it in the configuration ``file`` beside the one that is there.

    ``own_module``: a copy of SoftHSM's library in a ``folder`` of its own, with its own configuration.
    """
    first = config.load(file).token
    assert first.module is not None
    module, environment = first.module, first.environment
    if own_module:
        module, environment = new_module(first, file.parent / folder)
    make = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN]
    subprocess.run(make, env=os.environ | environment, check=True, capture_output=True)
    pin = file.parent / "new-pin"
    pin.touch(mode=0o600)
    pin.write_text(f"{PIN}\n")
    name(file, module, environment, pin, f'label = "{label}"')


def new_module(like: TokenSettings, folder: Path) -> tuple[Path, dict[str, str]]:
    """A copy of a token's SoftHSM library in a new folder, with a configuration of its own and no tokens yet."""
    assert like.module is not None
    module, environment = folder / "libvendor.so", {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
    (folder / "tokens").mkdir(mode=0o700, parents=True)
    shutil.copy(like.module, module)
    text = Path(like.environment["SOFTHSM2_CONF"]).read_text()
    there = [line for line in text.splitlines() if not line.startswith("directories.tokendir")]
    Path(environment["SOFTHSM2_CONF"]).write_text("\n".join([*there, f"directories.tokendir = {folder}/tokens"]))
    return module, environment


def name(file: Path, module: Path, environment: dict[str, str], pin: Path | None, choice: str) -> None:
    """Name one more token in the configuration ``file``; ``choice``: its lines with label or serial."""
    variables = "\n".join(f'{name} = "{value}"' for name, value in environment.items())
    text = file.read_text().replace("\n[token]\n", "\n[[token]]\n")
    file.write_text(
        f'{text}\n[[token]]\nmodule = "{module}"\n{choice}\n'
        f'[token.pin]\nfile = "{pin}"\n[token.environment]\n{variables}\n'
    )


# -- clones -----------------------------------------------------------------------------------------------------------


def token_folder(token: TokenSettings) -> Path:
    """The folder of the SoftHSM token that the settings name by a serial, or by a label that is there once."""
    wanted = token.serial if isinstance(token.serial, str) else token.label
    assert wanted is not None
    folders = Path(token.environment["SOFTHSM2_CONF"]).parent.joinpath("tokens").iterdir()
    (folder,) = [each for each in folders if each.is_dir() and wanted.encode() in (each / "token.object").read_bytes()]
    return folder


def clone(token: TokenSettings, *, serial: str = CLONE_SERIAL, into: Path | None = None) -> Path:
    """Copy a SoftHSM token as a vendor's tool would, under another serial (16 characters); the folder of the copy.

    ``into``: the ``tokens`` folder of another module; else the copy is in another slot of the same one.
    """
    original = token_folder(token)
    copy = (into or original.parent) / str(uuid.uuid4())
    shutil.copytree(original, copy)
    token_object = (copy / "token.object").read_bytes()
    (copy / "token.object").write_bytes(token_object.replace(serial_in(token_object), serial.encode()))
    return copy


@contextmanager
def swapped_for_clone(token: TokenSettings, *, serial: str = CLONE_SERIAL) -> Iterator[None]:
    """Within the block a clone is in the place of a token, which is restored afterwards."""
    original = token_folder(token)
    place = original.parent.with_name("swapped")
    copy = clone(token, serial=serial)
    original.rename(place)
    yield
    shutil.rmtree(copy)
    place.rename(original)


def clone_again(token: TokenSettings, copy: TokenSettings) -> None:
    """Bring a clone in a module of its own to the state of its token now."""
    assert isinstance(copy.serial, str)
    original = token_folder(copy)
    shutil.rmtree(original)
    clone(token, serial=copy.serial, into=original.parent)


def serial_in(token_object: bytes) -> bytes:
    """The serial in the bytes of a SoftHSM token's file: its attribute CKA_OS_TOKENSERIAL.

    An attribute is its type, the kind of its value (3: bytes) and the value's length, 8 bytes each, and the value.
    """
    at = token_object.index(TOKEN_SERIAL.to_bytes(8, "big") + (3).to_bytes(8, "big"))
    length = int.from_bytes(token_object[at + 16 : at + 24], "big")
    return token_object[at + 24 : at + 24 + length]


def add_clone(file: Path, *, serial: str = CLONE_SERIAL) -> TokenSettings:
    """Clone the first token of a configuration, name the clone there beside it, and return the clone's settings.

    The copy is in a folder and a module of its own, ``clone-hsm``.
    """
    first = config.load(file).token
    folder = file.parent / "clone-hsm"
    module, environment = new_module(first, folder)
    clone(first, serial=serial, into=folder / "tokens")
    name(file, module, environment, first.pin.file, f'serial = "{serial}"')
    return next(token for token in config.load(file).tokens if token.serial == serial)


@contextmanager
def away(token: TokenSettings) -> Iterator[None]:
    """Every token of the module of these settings cannot be reached in the block."""
    tokens = Path(token.environment["SOFTHSM2_CONF"]).parent / "tokens"
    tokens.rename(tokens.with_name("away"))
    tokens.mkdir()
    yield
    if tokens.with_name("away").exists():
        tokens.rmdir()
        tokens.with_name("away").rename(tokens)


def only(settings: config.Settings, *tokens: TokenSettings) -> config.Settings:
    """The same settings with these tokens alone."""
    return msgspec.structs.replace(settings, token=tokens[0], further_tokens=tokens[1:])
