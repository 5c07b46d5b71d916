"""Serial numbers of tokens, as text."""

from typing import Final

from pkcs11.types import Token

PADDING: Final = "\0 "
"""Characters that pad a field of CK_TOKEN_INFO: blanks by the standard, NUL bytes on some tokens."""


def serial_of(token: Token) -> str:
    """Return the token's serial number as text, empty if it reports none."""
    return token.serial.decode("utf-8", "replace").rstrip(PADDING)
