"""Serialise rows canonically: the bytes over which their seals are computed, the same with every database engine.

The form is independent of the order of the columns, and of columns added later that hold NULL or their default.
"""

from typing import Any, Final

from msgspec import msgpack

from hsmkms.store.sealed_tables import SealedTable, Values

_UNDECODABLE: Final = 1
_TYPES: Final[dict[type, str]] = {int: "integer", str: "text", bytes: "blob", float: "real"}


def undecodable(text: bytes) -> msgpack.Ext:
    """Return what stands for a text that is not UTF-8, which hsmkms never writes: it differs from every other value."""
    return msgpack.Ext(_UNDECODABLE, text)


def form(table: SealedTable, values: Values) -> bytes:
    """Return the canonical form of a row: MessagePack, an array of the names and values that are not left out.

    MessagePack has a type of its own for None, integers, texts, byte strings and booleans, and each value has exactly
    one shortest encoding. So two rows with the same form are the same row.
    """
    defaults = table.defaults
    members: list[Any] = []
    for name, value in values.items():
        if value is not None and not (name in defaults and _same(value, defaults[name])):
            members += (name, value)
    return msgpack.encode(members)


def form_until_0008(table: SealedTable, values: Values) -> bytes:
    """Return the form that programs up to schema meta_0008 computed in SQL: ``name=type+hex;`` for each column."""
    members = []
    for name, value in values.items():
        if value is not None and not _same(value, table.defaults.get(name)):
            kind, data = _until_0008(value)
            members.append(f"{name}={kind}{data.hex().upper()};")
    return "".join(members).encode()


def _until_0008(value: object) -> tuple[str, bytes]:
    if isinstance(value, msgpack.Ext):
        return "text", bytes(value.data)
    plain = int(value) if isinstance(value, bool) else value
    return _TYPES[type(plain)], plain if isinstance(plain, bytes) else str(plain).encode()


def _same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default
