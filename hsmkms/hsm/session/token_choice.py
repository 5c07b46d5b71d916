"""Choose one token among those that a module lists.

Slot numbers move and labels repeat, so a token is named by label, serial, manufacturer or model, as an RFC 7512 URI
does; a choice that fits two tokens is refused rather than answered with the first.
"""

from collections.abc import Iterator

from msgspec import Struct
from pkcs11.constants import TokenFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Token

from hsmkms.errors import TokenNotFoundError
from hsmkms.hsm.serials import PADDING, serial_of
from hsmkms.hsm.session.module import Module


class TokenChoice(Struct, frozen=True, kw_only=True):
    """Attributes that the wanted token must report; None means "any".

    Several serials are those of an HA group, whose members share their objects: any member that is present fits.
    """

    label: str | None = None
    serial: str | tuple[str, ...] | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None

    @property
    def serials(self) -> tuple[str, ...]:
        """Serials that fit, without their padding; empty means any."""
        serials = (self.serial,) if isinstance(self.serial, str) else self.serial or ()
        return tuple(each.rstrip(PADDING) for each in serials)

    @property
    def is_group(self) -> bool:
        """True if the choice lists several serials: those of the members of an HA group."""
        return len(self.serials) > 1

    def fits(self, token: Token) -> bool:
        """Return True if the token matches every given attribute; NUL bytes and blanks at the end do not count."""
        reported = {
            "label": _unpadded(token.label),
            "serial": _unpadded(serial_of(token)),
            "manufacturer": _unpadded(token.manufacturer_id),
            "model": _unpadded(token.model),
            "slot_id": token.slot.slot_id,
        }
        wanted = [(name, each if isinstance(each, tuple) else (each,)) for name, each in self._wanted()]
        return all(values == (None,) or reported[name] in map(_unpadded, values) for name, values in wanted)

    def __str__(self) -> str:
        return ", ".join(f"{name} {wanted!r}" for name, wanted in self._wanted() if wanted is not None) or "any token"

    def _wanted(self) -> Iterator[tuple[str, str | tuple[str, ...] | int | None]]:
        return ((name, getattr(self, name)) for name in self.__struct_fields__)


def _unpadded(value: str | int | None) -> str | int | None:
    """Drop the padding of a CK_TOKEN_INFO field."""
    return value.rstrip(PADDING) if isinstance(value, str) else value


def tokens(module: Module) -> list[Token]:
    """List all initialised tokens of the module; a slot that does not answer is left out."""
    return [each for each in _all_tokens(module) if each.flags & TokenFlag.TOKEN_INITIALIZED]


def _all_tokens(module: Module) -> list[Token]:
    """List all tokens of the module, initialised or not; a slot that does not answer is left out."""
    found = []
    for slot in module.slots():
        try:
            found.append(slot.get_token())
        except PKCS11Error:
            continue
    return found


def choose(module: Module, choice: TokenChoice) -> Token:
    """Return the one token that fits, or the first candidate of an HA group; TokenNotFoundError for none or several."""
    return candidates(module, choice)[0]


def candidates(module: Module, choice: TokenChoice, preferred: str | None = None) -> list[Token]:
    """Return the members of an HA group that are present, in the order in which to try them; else the one that fits.

    ``preferred``: the serial to try first, if it is listed. A serial that two tokens have is skipped if another member
    is present. TokenNotFoundError if no token fits, or several without a list of serials.
    """
    present = tokens(module)
    fitting = [token for token in present if choice.fits(token)]
    serials = sorted(choice.serials, key=lambda each: each != preferred)
    by_serial = [[token for token in fitting if _unpadded(serial_of(token)) == _unpadded(serial)] for serial in serials]
    found = [each for each in by_serial if each] if serials else [fitting] if fitting else []
    unique = [each[0] for each in found if len(each) == 1]
    if unique:
        return unique
    shown = "; ".join(f"label {each.label!r} serial {serial_of(each)!r}" for each in present) or "none"
    if not found:
        raise TokenNotFoundError(f"no token fits {choice}; present: {shown}{_unready(module)}")
    missing = "label" if choice.label is None else "serial"
    raise TokenNotFoundError(f"{len(found[0])} tokens fit {choice}: add the {missing}; present: {shown}")


def _unready(module: Module) -> str:
    """Name the tokens that have a label and are not initialised; some are not before they have a user PIN (NSS)."""
    unready = [each for each in _all_tokens(module) if not each.flags & TokenFlag.TOKEN_INITIALIZED]
    labels = [repr(label) for label in (_unpadded(each.label) for each in unready) if label]
    return f"; not initialised, or without a user PIN: label {', '.join(labels)}" if labels else ""


def namesakes(module: Module, label: str) -> frozenset[str]:
    """Return the serials of the tokens present that have that label."""
    return frozenset(serial_of(each) for each in tokens(module) if each.label == label)
