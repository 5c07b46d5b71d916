"""Other tokens, played by the shim in ``tests/shim`` over SoftHSM: personalities by name, and faults by order.

The shim is compiled once and kept (fixture ``shim_path``). The orders of a control file are in shim/shim.c.
"""

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from devices import TESTS, SoftHsm
from msgspec import Struct
from pkcs11.constants import Attribute
from pkcs11.mechanisms import Mechanism

from hsmkms import file_lock
from hsmkms.hsm.crypto.token_iv import IvOrigin

_WARNINGS: Final = ("-Wall", "-Wextra", "-Werror")


class Personality(Struct, frozen=True, kw_only=True):
    """A token with deviations. ``orders``: lines of the control file. ``reason``: which tokens behave so."""

    name: str
    orders: tuple[str, ...]
    reason: str


WRITTEN_BACK: Final = Personality(
    name="iv-written-back",
    orders=("iv written_back zeroed",),
    reason="AWS CloudHSM wants a zeroed buffer, chooses the IV itself and writes it there",
)
OVERWRITTEN: Final = Personality(
    name="iv-overwritten",
    orders=("iv written_back",),
    reason="a token that takes any IV, and puts its own in the place of it",
)
APPENDED: Final = Personality(
    name="iv-appended", orders=("iv appended",), reason="a token that puts its own IV behind the ciphertext"
)
UNASKED: Final = Personality(
    name="iv-unasked",
    orders=("iv appended none",),
    reason="Luna in FIPS mode, from firmware 7.9.3 on: asked for 96 bits and given no IV, it appends one",
)
PREPENDED: Final = Personality(
    name="iv-prepended", orders=("iv prepended",), reason="a token that puts its own IV before the ciphertext"
)
NO_DATA_OBJECTS: Final = Personality(
    name="no-data-objects", orders=("no_data_objects",), reason="many HSMs keep keys and certificates only"
)
CUT_LABELS: Final = Personality(
    name="labels-cut", orders=("labels 32 cut",), reason="a token that silently keeps 32 bytes of a label"
)
SHORT_LABELS: Final = Personality(
    name="labels-refused", orders=("labels 32 refused",), reason="a token that refuses labels of more than 32 bytes"
)
NO_CMAC: Final = Personality(
    name="no-cmac", orders=(f"hide {Mechanism.AES_CMAC:#x}",), reason="PKCS #11 2.20 has no AES-CMAC"
)
OAEP_SHA_256: Final = Personality(
    name="oaep-sha-256", orders=("oaep_sha_256",), reason="most HSMs unwrap OAEP with SHA-256 as well"
)
HONEST_LENGTHS: Final = Personality(
    name="honest-lengths",
    orders=("lengths honest",),
    reason="the standard wants CKA_VALUE_LEN of unwrapped keys to be right",
)
EIGHT_SESSIONS: Final = Personality(
    name="eight-sessions", orders=("sessions 8",), reason="smart cards and small HSMs have few sessions"
)
EIGHT_UNTOLD: Final = Personality(
    name="eight-sessions-untold", orders=("sessions 8 untold",), reason="a token that does not tell how few it has"
)
NO_GCM: Final = Personality(
    name="no-gcm",
    orders=(f"hide {Mechanism.AES_GCM:#x}",),
    reason="opencryptoki 3.8, and network HSMs in FIPS mode, have AES-CBC and HMAC, and no AES-GCM",
)
UNASKED_NO_CMAC: Final = Personality(
    name="iv-unasked-no-cmac",
    orders=(*UNASKED.orders, *NO_CMAC.orders),
    reason="without AES-CMAC it is AES-GCM that proves the length of imported material",
)
EVERYTHING: Final = Personality(
    name="everything-at-once",
    orders=(
        *("iv written_back zeroed", "no_data_objects", "labels 32 refused", f"hide {Mechanism.AES_CMAC:#x}"),
        *(f"hide {Mechanism.AES_ECB:#x}", "oaep_sha_256", "lengths honest", "sessions 8"),
    ),
    reason="quirks come together: this one is nearest to a network HSM",
)

PERSONALITIES: Final = (
    *(WRITTEN_BACK, OVERWRITTEN, APPENDED, UNASKED, PREPENDED, NO_DATA_OBJECTS, CUT_LABELS, SHORT_LABELS, NO_CMAC),
    *(OAEP_SHA_256, HONEST_LENGTHS, EIGHT_SESSIONS, EIGHT_UNTOLD, UNASKED_NO_CMAC, NO_GCM, EVERYTHING),
)
"""Those on which everything is done, some of it in another way. What is refused has tests of its own."""

IV_ORIGINS: Final = {
    WRITTEN_BACK.name: IvOrigin.WRITTEN_BACK,
    OVERWRITTEN.name: IvOrigin.WRITTEN_BACK,
    APPENDED.name: IvOrigin.APPENDED,
    UNASKED.name: IvOrigin.APPENDED_UNASKED,
    PREPENDED.name: IvOrigin.PREPENDED,
    UNASKED_NO_CMAC.name: IvOrigin.APPENDED_UNASKED,
    EVERYTHING.name: IvOrigin.WRITTEN_BACK,
}
"""Those that choose the IVs of AES-GCM themselves."""


def build(kept: Path) -> Path:
    """Compile the shim; the path of the module. The compiler is part of what the tests need."""
    return compile_module("shim", kept)


def compile_module(name: str, kept: Path) -> Path:
    """Compile the C files of a folder of the tests to a PKCS#11 module, unless it is ``kept``; its path.

    Workers that want it at the same time wait for the first one: compiling it takes seconds.
    """
    compiler = shutil.which("gcc")
    assert compiler, "no gcc here: scripts/test installs it (Debian: gcc, libc6-dev)"
    sources, headers = sorted((TESTS / name).glob("*.c")), sorted((TESTS / name).glob("*.h"))
    options = ("-std=gnu11", "-O1", *_WARNINGS, "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
    made_from = sha256(repr((os.path.realpath(compiler), options)).encode())
    for file in (*sources, *headers):
        made_from.update(file.read_bytes())
    module = kept / made_from.hexdigest()[:16] / f"{name}.so"
    module.parent.mkdir(mode=0o700, exist_ok=True)
    with (module.parent / "lock").open("w") as locked:
        file_lock.lock(locked.fileno())
        if not module.exists():
            new = module.with_suffix(".new")
            subprocess.run([compiler, *options, "-o", new, *sources, "-ldl"], check=True, timeout=120)
            new.replace(module)
    return module


def order(control: Path, *lines: str) -> None:
    """Replace the shim's orders in one step, also for processes that have it open."""
    _waiting(control).unlink(missing_ok=True)
    new = control.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines))
    new.replace(control)


def waiting(control: Path) -> int:
    """How many calls have come to a `wait` since the last order."""
    file = _waiting(control)
    return file.stat().st_size if file.exists() else 0


def _waiting(control: Path) -> Path:
    return control.with_name(f"{control.name}.waiting")


def ignoring(attribute: Attribute, *, value: bool) -> str:
    """The order to give objects this value, whatever was ordered."""
    return f"ignore {attribute:#x} {int(value)}"


class Played(Struct, frozen=True):
    """A SoftHSM token behind the shim, and the control file with its orders."""

    token: SoftHsm
    control: Path

    @classmethod
    def of(cls, token: SoftHsm, shim: Path, *orders: str) -> "Played":
        """Put the shim before ``token``."""
        control = token.folder / "shim.control"
        order(control, *orders)
        environment = token.environment | variables(token.module, control)
        return cls(msgspec.structs.replace(token, module=shim, environment=environment), control)

    def order(self, *lines: str) -> None:
        """Replace the shim's orders."""
        order(self.control, *lines)

    def waiting(self) -> int:
        """How many calls have come to a `wait` since the last order."""
        return waiting(self.control)


def variables(module: Path, control: Path) -> dict[str, str]:
    """What the shim wants in the environment."""
    return {"SHIM_MODULE": os.fspath(module), "SHIM_CONTROL": os.fspath(control)}
