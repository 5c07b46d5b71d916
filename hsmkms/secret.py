"""A PIN on its way from its source to the token: a text that nothing shows, and where it came from.

Where it came from is all that is remembered of a PIN that was refused: a hash of a short PIN would betray it.
"""

from msgspec import Struct


class PinOrigin(Struct, frozen=True, kw_only=True):
    """Where a PIN was read.

    ``name``: the source in words. ``version``: the same for the same PIN, as far as that can be seen. ``comparable``:
    the same version is the same PIN, in whichever process it was read. ``typed``: a person has just given it by hand.
    """

    name: str
    version: str = ""
    comparable: bool = False
    typed: bool = False


class Secret:
    """A text that no repr, message or traceback with local variables shows.

    ``origin`` is None where it is not known. ``insisted``: a person wants it sent, though it may have been refused.
    """

    __slots__ = ("_text", "insisted", "origin")

    def __init__(self, text: str, origin: PinOrigin | None = None, *, insisted: bool = False) -> None:
        self._text = text
        self.origin = origin
        self.insisted = insisted

    def reveal(self) -> str:
        """The text itself; pass it on at once and keep it nowhere."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"
