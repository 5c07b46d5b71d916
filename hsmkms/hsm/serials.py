"""Serial numbers of tokens, as text."""

from pkcs11.types import Token


def serial_of(token: Token) -> str:
    """The token's serial number as text."""
    return token.serial.decode("utf-8", "replace")
