"""Carry a PIN from its source to the token: a text that is never shown, and its origin.

Only the origin of a refused PIN is recorded: a hash of a short PIN would reveal it.
"""

from msgspec import Struct


class PinOrigin(Struct, frozen=True, kw_only=True):
    """Where a PIN was read.

    ``name``: the source, for messages. ``version``: equal for the same PIN, as far as can be determined.
    ``comparable``: equal versions mean the same PIN across processes. ``typed``: a person has just entered it.
    """

    name: str
    version: str = ""
    comparable: bool = False
    typed: bool = False


class Secret:
    """A text that is never shown in a repr, a message or a traceback with local variables.

    ``origin`` is None where it is not known. ``insisted``: a person confirmed that it is to be sent, though it may have
    been refused before.
    """

    __slots__ = ("_text", "insisted", "origin")

    def __init__(self, text: str, origin: PinOrigin | None = None, *, insisted: bool = False) -> None:
        self._text = text
        self.origin = origin
        self.insisted = insisted

    def reveal(self) -> str:
        """Return the text itself; pass it on immediately and store it nowhere."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"
