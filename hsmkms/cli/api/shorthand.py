"""Parse the shorthand of the aws CLI: ``A=1,B=two``, lists ``A=x,y`` or ``A=[x,y]``, structures ``A={B=c}``, quotes.

Source: "Using shorthand syntax in the AWS CLI". The form ``A@=file://…`` is not read: a whole value can be a file.
"""

import re
from typing import Any, Final

Value = str | list[Any] | dict[str, Any]
"""The value of a member: a text, a list of values or a structure."""

_QUOTED: Final = re.compile(r"""'((?:\\\\|\\'|[^'])*)'|"((?:\\\\|\\"|[^"])*)\"""")
_ESCAPED: Final = re.compile(r"""\\([\\'"])""")
_KEY: Final = re.compile(r"""\s*([^=,'"\[\]{}]+?)\s*=""")


class ShorthandError(ValueError):
    """The text is no shorthand: a sentence without a name of an option."""


def parse(text: str) -> dict[str, Any]:
    """Return the members of a structure or map. Raises ShorthandError."""
    return _Parser(text).members("")


class _Parser:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def members(self, end: str) -> dict[str, Any]:
        """Read ``KEY=VALUE,KEY=VALUE`` up to ``end``, a bracket or the end of the text."""
        found: dict[str, Any] = {}
        while True:
            key = self._key()
            if key in found:
                raise ShorthandError(f"{key!r} is there twice")
            found[key] = self._value(end, a_list_may_follow=not end)
            if not self._another(end):
                return found

    def _key(self) -> str:
        matched = _KEY.match(self._text, self._at)
        if matched is None:
            raise ShorthandError(f"{self._text[self._at :]!r} is not key=value")
        self._at = matched.end()
        return matched[1]

    def _value(self, end: str, *, a_list_may_follow: bool = False) -> Value:
        self._skip_space()
        if self._takes("["):
            return self._list()
        if self._takes("{"):
            return self.members("}")
        first = self._text_of(end)
        if not a_list_may_follow:
            return first
        values = [first]
        while self._at < len(self._text) and _KEY.match(self._text, self._at + 1) is None:
            self._at += 1  # the comma
            self._skip_space()
            values.append(self._text_of(end))
            if not values[-1]:
                raise ShorthandError("nothing stands after a comma")
        return values if len(values) > 1 else first

    def _list(self) -> list[Any]:
        values: list[Any] = []
        self._skip_space()
        while not self._takes("]"):
            values.append(self._value("]"))
            if not self._another("]"):
                break
            self._skip_space()
        return values

    def _text_of(self, end: str) -> str:
        quoted = _QUOTED.match(self._text, self._at)
        if quoted is not None:
            self._at = quoted.end()
            self._skip_space()
            if self._at < len(self._text) and self._text[self._at] not in f",{end}":
                raise ShorthandError(f"{self._text[self._at :]!r} follows a quoted text: a comma must stand between")
            return _ESCAPED.sub(r"\1", quoted[1] if quoted[1] is not None else quoted[2])
        if self._text[self._at : self._at + 1] in ("'", '"'):
            raise ShorthandError(f"the quotation mark before {self._text[self._at + 1 :]!r} is not closed")
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in f",{end}":
            self._at += 2 if self._text.startswith("\\,", self._at) else 1
        return self._text[start : self._at].replace("\\,", ",").rstrip()

    def _another(self, end: str) -> bool:
        """Read the comma before another member or value, or ``end``."""
        self._skip_space()
        if self._takes(","):
            return True
        if end and not self._takes(end):
            raise ShorthandError(f"{end!r} is missing")
        if not end and self._at < len(self._text):
            raise ShorthandError(f"{self._text[self._at :]!r} is too much")
        return False

    def _takes(self, character: str) -> bool:
        """Read the character if it is the next one."""
        there = self._text.startswith(character, self._at)
        self._at += there
        return there

    def _skip_space(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
