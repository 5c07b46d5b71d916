"""Encode records as JSON whatever text they contain.

HTTP requests contain Unicode characters only, but callers in Python and arguments of commands may contain lone
surrogates, which are no characters and have no UTF-8. Such requests are refused, and the refusal is recorded.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

_encode: Final = msgspec.json.Encoder().encode


def encode_any(value: object) -> bytes:
    """Encode a value as JSON; a lone surrogate becomes the text of its escape sequence."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_escaped(value))


def _escaped(value: Any) -> Any:  # noqa: ANN401 - any value
    """Return the value with characters only."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_escaped(name): _escaped(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(each) for each in value]
    if isinstance(value, Struct):
        return replace(value, **{name: _escaped(getattr(value, name)) for name in value.__struct_fields__})
    return value
