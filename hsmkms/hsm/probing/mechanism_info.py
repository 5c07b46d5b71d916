"""Describe a token's mechanisms."""

from msgspec import Struct
from pkcs11.constants import MechanismFlag


class MechanismInfo(Struct, frozen=True, kw_only=True):
    """Result of C_GetMechanismInfo: key sizes in the mechanism's own unit (bits or bytes), and uses by name."""

    name: str
    min_key_size: int | None
    max_key_size: int | None
    uses: tuple[str, ...]


def mechanism_info(name: str, info: tuple[int, int, int] | None) -> MechanismInfo:
    """Describe one mechanism; ``info`` is its smallest and largest key size and its flags, None if not reported."""
    smallest, largest, flags = info or (0, 0, 0)
    uses = tuple(flag.name or "" for flag in MechanismFlag if flag & flags)
    return MechanismInfo(name=name, min_key_size=smallest or None, max_key_size=largest or None, uses=uses)
