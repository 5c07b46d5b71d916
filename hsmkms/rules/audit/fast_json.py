"""Records of the audit log as JSON, in little time.

Most requests succeed and change nothing, and a client sends the like of them again and again. So what their records
have in common is kept as JSON, a form, and only time, parameters and ids are filled in: 4 µs a record instead of 15.
"""

from datetime import UTC, datetime
from typing import Final

from msgspec import Raw
from msgspec.structs import replace

from hsmkms.model.caller import Caller
from hsmkms.rules.audit.record import Event, Occasion, Outcome, encode, event_time, is_read_only, materials, of_request

MAX_FORMS: Final = 2048
"""Forms that are kept, of 1 to 3 KB each; beyond that all are dropped and made again."""


class Forms:
    """The forms of an occasion. Thread-safe.

    ``gap`` stands in a form where something is filled in: a word that no client can know, so that none can write it.
    """

    def __init__(self, occasion: Occasion, gap: str) -> None:
        self._occasion = occasion
        self._gap = gap
        self._forms: dict[tuple[object, ...], tuple[bytes, ...]] = {}
        self._time = (datetime.min.replace(tzinfo=UTC), b"")

    def encoded(self, caller: Caller, event: Event, outcome: Outcome) -> bytes:
        """The record of what somebody has asked for."""
        if outcome.error is not None or not (is_read_only(event.name) and isinstance(event.shown, Raw)):
            return encode(of_request(self._occasion, caller, event, outcome))
        common = (
            *(event.name, event.source, event.arns, materials(outcome.response, outcome.material)),
            *(caller.principal, caller.access_key_id, caller.region, caller.source_address, caller.user_agent),
        )
        form = self._forms.get(common) or self._make(common, caller, event, outcome)
        to_time, to_parameters, to_request, to_event, rest = form
        second = event.at.replace(microsecond=0)
        told_second, time = self._time
        if second != told_second:
            time = encode(event_time(second))
            self._time = (second, time)
        request_id, event_id = encode(caller.request_id), encode(event.event_id)
        return b"".join((to_time, time, to_parameters, event.shown, to_request, request_id, to_event, event_id, rest))

    def _make(self, common: tuple[object, ...], caller: Caller, event: Event, outcome: Outcome) -> tuple[bytes, ...]:
        made = replace(
            of_request(self._occasion, caller, event, outcome),
            event_time=self._gap,
            request_parameters=Raw(encode(self._gap)),
            request_id=self._gap,
            event_id=self._gap,
        )
        form = tuple(encode(made).split(encode(self._gap)))
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        self._forms[common] = form
        return form
