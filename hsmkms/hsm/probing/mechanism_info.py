"""What a token tells of its mechanisms."""

from msgspec import Struct
from pkcs11.constants import MechanismFlag


class MechanismInfo(Struct, frozen=True, kw_only=True):
    """What C_GetMechanismInfo tells: key sizes in the mechanism's own unit (bits or bytes), and uses by name."""

    name: str
    min_key_size: int | None
    max_key_size: int | None
    uses: tuple[str, ...]


def mechanism_info(name: str, told: tuple[int, int, int] | None) -> MechanismInfo:
    """Of one mechanism; ``told`` are its smallest and largest key and its flags."""
    smallest, largest, flags = told or (0, 0, 0)
    uses = tuple(flag.name or "" for flag in MechanismFlag if flag & flags)
    return MechanismInfo(name=name, min_key_size=smallest or None, max_key_size=largest or None, uses=uses)
