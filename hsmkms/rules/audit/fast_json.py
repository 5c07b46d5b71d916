"""Encode records of the audit log as JSON quickly, with prepared lines.

Most requests succeed and change nothing, and a client sends similar ones again and again. So the constant parts of
their records are encoded once, and only what differs is filled in: time, encryption context, and the ids of request and
event. The parts that depend on the caller are cached apart from those that depend on the key, so that many callers who
use many keys do not need a line for each pair.
"""

from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final, TypeVar

from msgspec import Raw, Struct
from msgspec.structs import replace

from hsmkms.rules.audit.any_text import encode_any
from hsmkms.rules.audit.record import (
    Occasion,
    Outcome,
    RecordedCall,
    encode,
    event_of,
    event_time,
    is_read_only,
    material_reader,
    materials,
    members_of,
    of_request,
    parameters,
)

MAX_PARTS: Final = 4096
"""Cache limit for the parts of callers, and for those of keys, of about 1 KB each; at the limit a cache is cleared."""

MAX_KEPT: Final = 4096
"""Limit in bytes of the parameters of a prepared line, and of an encryption context that is filled in."""

_SECOND: Final = timedelta(seconds=1)
_GAPS: Final = 4
"""Time, parameters, ids of request and event; one more with an encryption context."""

_read_caller: Final = attrgetter("principal", "access_key_id", "region", "source_address", "user_agent")

Part = TypeVar("Part")
_OfCaller = tuple[bytes, bytes]
"""What depends on caller and operation: up to the time, and then up to the parameters."""

_OfKey = tuple[bytes, bytes, bytes, bytes]
"""What depends on key, parameters and response: up to encryption context, id of the request, id of the event, and end.

Without an encryption context the first part reaches to the id of the request, and the second is empty.
"""


class Forms:
    """Cache of prepared lines of an occasion. Thread-safe.

    ``gap`` marks the places in a line that are filled in: a secret word, so that no client can put it into a request.
    """

    def __init__(self, occasion: Occasion, gap: str) -> None:
        self._occasion = occasion
        self._gap = gap
        self._of_callers: dict[tuple[object, ...], _OfCaller] = {}
        self._of_keys: dict[tuple[object, ...], _OfKey] = {}
        earliest = datetime.min.replace(tzinfo=UTC)
        self._second = (earliest, earliest, b"")

    def answered(
        self, call: RecordedCall, now: datetime, request: Struct, response: Struct | None, event_id: str
    ) -> bytes:
        """Encode the record of a request that was answered; ``now``: when it came."""
        name, caller, kind = call.operation, call.caller, type(request)
        members = members_of(kind)
        context = members.read_map(request)
        used = None if response is None else material_reader(type(response))(response)
        of_whom = (name, *_read_caller(caller))
        about = (
            *(name, kind, members.identify(request), context is None),
            *(type(response), used, call.material_id, tuple(call.resources)),
        )
        try:
            of_caller, of_key = self._of_callers.get(of_whom), self._of_keys.get(about)
            filled_in = b"" if context is None else encode(context)
        except (TypeError, UnicodeEncodeError):  # a list among them, or text that is encoded by encode_any only
            return self._in_full(call, now, request, response, event_id)
        if of_caller is None or of_key is None:
            made = self._prepare(call, now, request, response)
            if made is None:
                return self._in_full(call, now, request, response, event_id)
            of_caller, of_key = _keep(self._of_callers, of_whom, made[0]), _keep(self._of_keys, about, made[1])
        if len(filled_in) > MAX_KEPT:
            return self._in_full(call, now, request, response, event_id)
        begin, end, time = self._second
        if not begin <= now < end:
            time = self._encoded_second(now)
        (to_time, to_parameters), (to_context, to_request, to_event, rest) = of_caller, of_key
        return b"".join(
            (
                *(to_time, time, to_parameters, to_context, filled_in),
                *(to_request, encode(caller.request_id), to_event, encode(event_id), rest),
            )
        )

    def _encoded_second(self, now: datetime) -> bytes:
        begin = now.replace(microsecond=0)
        encoded = encode(event_time(begin))
        self._second = (begin, begin + _SECOND, encoded)
        return encoded

    def _in_full(
        self, call: RecordedCall, now: datetime, request: Struct, response: Struct | None, event_id: str
    ) -> bytes:
        outcome = Outcome(response=response, used=materials(response, call.material_id))
        return encode_any(of_request(self._occasion, call.caller, event_of(call, now, request, event_id), outcome))

    def _prepare(
        self, call: RecordedCall, now: datetime, request: Struct, response: Struct | None
    ) -> tuple[_OfCaller, _OfKey] | None:
        """Encode a record with gaps, and split it there; None if it is one that is encoded in full."""
        map_name = members_of(type(request)).map_name
        gaps = _GAPS
        if map_name is not None and getattr(request, map_name) is not None:
            request = replace(request, **{map_name: self._gap})
            gaps += 1
        shown, gap = bytes(parameters(request)), encode(self._gap)
        if len(shown) > MAX_KEPT or not is_read_only(call.operation):
            return None
        outcome = Outcome(response=response, used=materials(response, call.material_id))
        made = replace(
            of_request(self._occasion, call.caller, event_of(call, now, request, self._gap), outcome),
            event_time=self._gap,
            request_parameters=Raw(gap + shown),
            request_id=self._gap,
        )
        parts = encode_any(made).split(gap)
        if len(parts) != gaps + 1:
            return None
        if gaps == _GAPS:
            parts.insert(3, b"")
        to_time, to_parameters, to_context, to_request, to_event, rest = parts
        return (to_time, to_parameters), (to_context, to_request, to_event, rest)


def _keep(cache: dict[tuple[object, ...], Part], key: tuple[object, ...], part: Part) -> Part:
    if len(cache) >= MAX_PARTS:
        cache.clear()
    cache[key] = part
    return part
