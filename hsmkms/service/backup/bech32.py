"""Encode Bech32 (BIP 173), age's notation of X25519 keys, for keys given in another form such as PEM."""

from collections.abc import Iterator
from typing import Final

_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECK_DIGITS: Final = 6


def encode(prefix: str, data: bytes) -> str:
    """Encode bytes as Bech32 in lower case; ``prefix`` (lower case) is the human-readable part."""
    digits = list(_in_fives(data))
    check = _polymod([*_expanded(prefix), *digits, *[0] * _CHECK_DIGITS]) ^ 1
    digits += [check >> 5 * (_CHECK_DIGITS - 1 - place) & 31 for place in range(_CHECK_DIGITS)]
    return f"{prefix}1{''.join(_ALPHABET[digit] for digit in digits)}"


def _in_fives(data: bytes) -> Iterator[int]:
    """Return the bytes as 5-bit digits, padded with zeros."""
    count = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << (count * 5 - len(data) * 8)
    return (number >> 5 * (count - 1 - place) & 31 for place in range(count))


def _expanded(prefix: str) -> list[int]:
    return [*(ord(each) >> 5 for each in prefix), 0, *(ord(each) & 31 for each in prefix)]


def _polymod(digits: list[int]) -> int:
    check = 1
    for digit in digits:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ digit
        for place, generator in enumerate(_GENERATOR):
            check ^= generator if top >> place & 1 else 0
    return check
