"""Collect the pages of a list as the aws CLI does: --max-items, --page-size, --starting-token, --no-paginate."""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from hsmkms.errors import ValidationException

Page = dict[str, Any]
Send = Callable[[str | None, int | None], Page]
"""Sends the request with a marker and a limit, if there are any; returns the answer in its wire form."""

_MARKER: Final = "Marker"
_SKIPPED: Final = "boto_truncate_amount"
"""The members of a starting token, which are those of botocore."""


class Paging(Struct, frozen=True, kw_only=True):
    """The pages that are wanted.

    ``max_items``: entries at most. ``page_size``: entries of a request. ``starting_token``: the ``NextToken`` of an
    answer that ``max_items`` cut. ``no_paginate``: the first page alone.
    """

    max_items: int | None = None
    page_size: int | None = None
    starting_token: str | None = None
    no_paginate: bool = False


def collect(send: Send, paging: Paging) -> Page:
    """Return all entries in one answer, without the members that lead to the next page.

    If ``max_items`` leaves entries out, the answer has a ``NextToken``. With ``no_paginate`` it is the first page, as
    the API gives it. Raises ValidationException for an invalid token.
    """
    marker, skipped = (None, 0) if paging.starting_token is None else _parse(paging.starting_token)
    shown: Page = {}
    room = paging.max_items
    while True:
        page = send(marker, paging.page_size)
        if paging.no_paginate:
            return page
        truncated, following = page.pop("Truncated", False), page.pop("NextMarker", None)
        name, entries = next((name, value) for name, value in page.items() if isinstance(value, list))
        fresh = entries[skipped:][:room]
        shown = page | {name: [*shown.get(name, []), *fresh]}
        if skipped + len(fresh) < len(entries):
            return shown | {"NextToken": _token(marker, skipped + len(fresh))}
        if not truncated:
            return shown
        room = None if room is None else room - len(fresh)
        if room == 0:
            return shown | {"NextToken": _token(following, 0)}
        marker, skipped = following, 0


def _token(marker: str | None, skipped: int) -> str:
    members: dict[str, Any] = {_MARKER: marker} | ({_SKIPPED: skipped} if skipped else {})
    return base64.b64encode(json.dumps(members).encode()).decode()


def _parse(token: str) -> tuple[str | None, int]:
    """Return the marker of a page and how many of its entries were shown already."""
    try:
        members = json.loads(base64.b64decode(token, validate=True))
        marker, skipped = members[_MARKER], members.get(_SKIPPED, 0)
    except (binascii.Error, ValueError, TypeError, KeyError, RecursionError):
        marker = skipped = object()
    if not (marker is None or isinstance(marker, str)) or type(skipped) is not int or skipped < 0:
        raise ValidationException("--starting-token takes the NextToken of an answer that --max-items has cut.")
    return marker, skipped
