"""Serial numbers of tokens, as text."""

from pkcs11.types import Token


def serial_of(token: Token) -> str:
    """Return the token's serial number as text, empty if it reports none; some tokens pad it with NUL bytes."""
    return token.serial.decode("utf-8", "replace").rstrip("\0 ")
