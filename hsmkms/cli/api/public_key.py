"""Print only the public key, in a standard format, for ``get-public-key --output-format``."""

import base64
import sys
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

_LINE: Final = 64
"""Characters on a line of PEM (RFC 7468)."""


class KeyFormat(StrEnum):
    """The value of ``--output-format``."""

    PEM = "pem"
    DER = "der"


FormatOption = Annotated[
    KeyFormat | None,
    typer.Option("--output-format", help="Print only the public key, in this format.", show_default=False),
]


def write(answer: dict[str, Any], form: KeyFormat) -> None:
    """Print the public key of a GetPublicKey answer: PEM as text, DER as bytes."""
    encoded: str = answer["PublicKey"]
    if form is KeyFormat.DER:
        sys.stdout.buffer.write(base64.b64decode(encoded))
        return
    lines = [encoded[at : at + _LINE] for at in range(0, len(encoded), _LINE)]
    print("\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----"]))
