"""Cells of CSV files, which spreadsheets open."""

from typing import Final

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with; the last ones are the full-width forms."""


def harmless(text: str) -> str:
    """Return a text for a cell; one that a spreadsheet would run as a formula begins with an apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text
