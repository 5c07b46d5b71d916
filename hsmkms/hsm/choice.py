"""Choosing one token among those that a module shows.

Slot numbers move and labels repeat, so a token is named by label, serial, manufacturer or model, as an RFC 7512 URI
does; a choice that fits two tokens is refused rather than answered with the first.
"""

from collections.abc import Iterator

from msgspec import Struct
from pkcs11.constants import TokenFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Token

from hsmkms.errors import TokenNotFoundError
from hsmkms.hsm.module import Module


class TokenChoice(Struct, frozen=True, kw_only=True):
    """What the wanted token must say of itself; None means "anything"."""

    label: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None

    def fits(self, token: Token) -> bool:
        """True if the token says all that was asked for."""
        told = {
            "label": token.label,
            "serial": token.serial.decode("utf-8", "replace"),
            "manufacturer": token.manufacturer_id,
            "model": token.model,
            "slot_id": token.slot.slot_id,
        }
        return all(wanted is None or wanted == told[name] for name, wanted in self._wanted())

    def __str__(self) -> str:
        return ", ".join(f"{name} {wanted!r}" for name, wanted in self._wanted() if wanted is not None) or "any token"

    def _wanted(self) -> Iterator[tuple[str, str | int | None]]:
        return ((name, getattr(self, name)) for name in self.__struct_fields__)


def tokens(module: Module) -> list[Token]:
    """All initialised tokens of the module; a slot that does not answer is left out."""
    found = []
    for slot in module.slots():
        try:
            token = slot.get_token()
        except PKCS11Error:
            continue
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            found.append(token)
    return found


def choose(module: Module, choice: TokenChoice) -> Token:
    """Return the one token that fits; raises TokenNotFoundError for none or several."""
    present = tokens(module)
    fitting = [token for token in present if choice.fits(token)]
    if len(fitting) == 1:
        return fitting[0]
    shown = "; ".join(f"label {t.label!r} serial {t.serial.decode('utf-8', 'replace')!r}" for t in present) or "none"
    if not fitting:
        raise TokenNotFoundError(f"no token fits {choice}; present: {shown}")
    raise TokenNotFoundError(f"{len(fitting)} tokens fit {choice}: add the serial; present: {shown}")
