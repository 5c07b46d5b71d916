"""The pages for monitors: which there are, and what each answers."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from hsmkms.server.messages import Response
from hsmkms.server.monitoring.metrics import CONTENT_TYPE

READING: Final = frozenset({"GET", "HEAD"})
"""The methods that a page is asked for by."""

_JSON: Final = (("Content-Type", "application/json"),)

Findings = Mapping[str, str]
"""What is wrong, by part."""


class Page(StrEnum):
    """Every page, by its path."""

    HEALTHZ = "/healthz"
    READYZ = "/readyz"
    METRICS = "/metrics"


PAGES: Final[Mapping[str, Page]] = {page: page for page in Page}


def respond_to(page: Page, look: Callable[[], tuple[Findings, Findings]], metrics: Callable[[], bytes]) -> Response:
    """Answer a page. ``look`` returns faults, which make the process not ready, and warnings, which do not."""
    if page is Page.HEALTHZ:
        return Response(200, _JSON, b'{"status":"ok"}')
    if page is Page.METRICS:
        return Response(200, (("Content-Type", CONTENT_TYPE),), metrics())
    faults, warnings = look()
    found = {"status": "not ready" if faults else "ready", "faults": faults}
    return Response(
        503 if faults else 200, _JSON, msgspec.json.encode(found | ({"warnings": warnings} if warnings else {}))
    )
