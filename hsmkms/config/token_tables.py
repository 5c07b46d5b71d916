"""Decode the token tables of a configuration file: one ``[token]``, or several ``[[token]]``."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from hsmkms.errors import ConfigurationError

FURTHER_TOKENS: Final = "token[1:]"
_TABLE: Final = re.compile(rb"^[ \t]*(\[token\]|\[\[token\]\])", re.MULTILINE)


def decode(data: bytes) -> Mapping[str, Any]:
    """Decode TOML; several ``[[token]]`` become ``token``, the first, and ``FURTHER_TOKENS``, the rest.

    Raises DecodeError or ConfigurationError.
    """
    try:
        decoded: dict[str, Any] = msgspec.toml.decode(data)
    except msgspec.DecodeError as exc:
        if set(_TABLE.findall(data)) == {b"[token]", b"[[token]]"}:
            raise ConfigurationError("it has a [token] beside a [[token]]: make [token] a [[token]]") from exc
        raise
    tokens = decoded.get("token")
    if not isinstance(tokens, list) or not tokens:
        return decoded
    first, *others = tokens
    return {**decoded, "token": first, FURTHER_TOKENS: others}
