"""Verify Signature Version 4: who signed a request, and that it was not changed.

The client signs a canonical form of the request with a key derived from its secret, the day, the region and the
service. The server builds the same form from the raw request and compares in constant time. An access key that is
unknown, deleted or inactive gives the same error after the same work (one lookup in the database, one signature, no
call to the token); for an active one with a wrong secret the error says, as that of AWS, that the signature does not
match. So the ids of access keys are random: 80 bits, too many to guess. Source: AWS General Reference, "Create a signed
AWS API request"; the errors are those of KMS.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Final, Protocol, TypeVar
from urllib.parse import quote, unquote

from msgspec import Struct

from hsmkms.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)
from hsmkms.server.aws.protocol import TARGET
from hsmkms.server.messages import RawRequest

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SERVICE: Final = "kms"
TERMINATOR: Final = "aws4_request"
DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
MUST_BE_SIGNED: Final = frozenset({"host", "x-amz-date", TARGET})

WRONG_CLIENT: Final = "The security token included in the request is invalid."
WRONG_SIGNATURE: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
NO_SESSION_TOKENS: Final = (
    "hsmkms has no session tokens: use the access key of a user, without aws_session_token (AWS_SESSION_TOKEN)."
)
_NOBODY: Final = "nobody's secret, so that an unknown access key costs the same time"

_match_front: Final = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^, ]{1,256}), *SignedHeaders=([^, ]{1,2048})"
).fullmatch
_match_date: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII).fullmatch
_match_signature: Final = re.compile(r"[0-9a-f]{64}", re.ASCII).fullmatch
_DATE_LENGTH: Final = 16
_SPACES: Final = re.compile(r"[ \t]+")
_RAW: Final = "latin-1"
"""Encoding of the head as text, one character per byte; the bytes are signed as they were sent."""

_PARTS: Final = ("Credential", "SignedHeaders", "Signature")
_MAX_CREDENTIAL: Final = 256
"""More than the longest access key id with every scope; longer ones would only fill the caches."""

_MAX_KEPT_NAMES: Final = 1024
"""Limit in bytes of cached header names, several times what clients send: a sender may have no credential."""


class HasSecret(Protocol):
    """A credential as far as a signature needs it."""

    @property
    def secret(self) -> str:
        """The secret of an access key."""


Credential = TypeVar("Credential", bound=HasSecret)


class Scope(Struct, frozen=True):
    """Credential scope of a signature: access key id, day (YYYYMMDD), region."""

    access_key_id: str
    date: str
    region: str


class _Front(Struct, frozen=True):
    """Parsed Authorization header up to the signature: the same for all requests of a client on one day."""

    scope: Scope
    credential_scope: str
    signed_headers: tuple[str, ...]


class _Signed(Struct, frozen=True):
    """Signed headers: their names in one line, the getter of their values, and the format of the usual lines."""

    names: str
    read: Callable[[Mapping[str, Sequence[str]]], tuple[Sequence[str], ...]]
    lines: str


def verify(
    request: RawRequest, find: Callable[[str], Credential | None], now: datetime, skew: timedelta
) -> tuple[Scope, Credential]:
    """Verify a request's signature; return its scope and credential. Every failure is one of AWS's errors.

    ``find``: returns the credential of an active access key, or None.
    """
    front, signature = _read(request)
    scope = front.scope
    stamp = ",".join(request.headers.get("x-amz-date", ()))
    _check_date(stamp, scope, now, skew)
    if "x-amz-content-sha256" in request.headers:
        _check_payload_hash(request)
    credential = find(scope.access_key_id)
    expected = _signature(request, front, stamp, credential.secret if credential is not None else _NOBODY)
    matches = hmac.compare_digest(expected, signature)
    if credential is None:
        raise UnrecognizedClientException(WRONG_CLIENT)
    if not matches:
        raise InvalidSignatureException(WRONG_SIGNATURE)
    return scope, credential


def check_head(head: RawRequest, now: datetime, skew: timedelta) -> Scope:
    """Return the scope that a head states, before its body has arrived; the same errors as ``verify``.

    This proves nothing: it only refuses requests that do not look signed.
    """
    front, _ = _read(head)
    _check_date(head.header("x-amz-date") or "", front.scope, now, skew)
    return front.scope


# -- reading ----------------------------------------------------------------------------------------------------


def _read(request: RawRequest) -> tuple[_Front, str]:
    """Parse the Authorization header into the part before the signature, and the signature."""
    headers = request.headers
    if "authorization" not in headers:
        raise MissingAuthenticationTokenException(
            "Missing Authentication Token: sign the request (Signature Version 4)."
        )
    header = ",".join(headers["authorization"])
    front_text, _, signature = header.rpartition(", Signature=")
    read = _usual_front if _are_kept(headers) else _usual_front.__wrapped__
    try:
        front = read(front_text, tuple(headers))
    except ValueError:
        credential, signed_headers, signature = _parts(header)
        front = _front(credential, signed_headers, tuple(headers))
    if not _match_signature(signature):
        raise IncompleteSignatureException("Signature must be 64 lower-case hex digits.")
    return front, signature


def _are_kept(names: Iterable[str]) -> bool:
    """Return True if results for these header names may be cached."""
    return sum(map(len, names)) <= _MAX_KEPT_NAMES


@lru_cache(maxsize=256)
def _usual_front(text: str, present: tuple[str, ...]) -> _Front:
    """Parse the usual form; ValueError for any other form. ``present``: the names of all headers."""
    match = _match_front(text)
    if match is None:
        raise ValueError(text)
    return _front(match[1], match[2], present)


def _front(credential: str, signed: str, present: tuple[str, ...]) -> _Front:
    scope = _read_scope(credential)
    if "x-amz-security-token" in present:
        raise UnrecognizedClientException(NO_SESSION_TOKENS)
    if "x-amz-date" not in present:
        raise IncompleteSignatureException("Authorization header requires existence of a 'X-Amz-Date' header.")
    signed_headers = _signed_headers(signed, present)
    credential_scope = f"{scope.date}/{scope.region}/{SERVICE}/{TERMINATOR}"
    return _Front(scope, credential_scope, signed_headers)


def _parts(header: str) -> tuple[str, ...]:
    """Parse an Authorization header of another form: in another order, or invalid."""
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise IncompleteSignatureException(
            f"Authorization must begin with {ALGORITHM}: other kinds of signature are not taken."
        )
    pairs = [part.strip().partition("=") for part in rest.split(",")]
    found = {name: value for name, _, value in pairs if value}
    missing = [f"Authorization header requires '{part}' parameter." for part in _PARTS if part not in found]
    if missing:
        raise IncompleteSignatureException(" ".join(missing))
    if len(pairs) != len(_PARTS):
        raise IncompleteSignatureException(
            f"Authorization must have the form: {ALGORITHM} Credential=..., SignedHeaders=..., Signature=..."
        )
    return tuple(found[part] for part in _PARTS)


def _read_scope(credential: str) -> Scope:
    parts = credential.split("/")
    if len(parts) != 5 or len(credential) > _MAX_CREDENTIAL:  # noqa: PLR2004 - id, day, region, service, terminator
        raise IncompleteSignatureException(
            "Credential must have exactly 5 slash-delimited elements: keyid/date/region/service/aws4_request."
        )
    access_key_id, date, region, service, terminator = parts
    if service != SERVICE:
        raise InvalidSignatureException(
            f"Credential should be scoped to correct service: '{SERVICE}'. This request is signed for "
            f"'{service}', which hsmkms does not serve: set AWS_ENDPOINT_URL_KMS instead of AWS_ENDPOINT_URL, "
            "which sends the requests for every service here."
        )
    if terminator != TERMINATOR:
        raise InvalidSignatureException(f"Credential should be scoped with a valid terminator: '{TERMINATOR}'.")
    return Scope(access_key_id, date, region)


def _signed_headers(names: str, present: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the signed headers, after checking them."""
    signed = tuple(names.split(";"))
    if list(signed) != sorted(set(signed)) or any(name != name.lower() for name in signed):
        raise IncompleteSignatureException("SignedHeaders must be in lower case, sorted, each once.")
    unsigned = [name for name in present if name.startswith("x-amz-") and name not in signed]
    unsigned += sorted(MUST_BE_SIGNED - {*signed, *unsigned})
    if unsigned:
        raise InvalidSignatureException(f"These headers must be signed: {', '.join(unsigned)}.")
    absent = [name for name in signed if name not in present]
    if absent:
        raise InvalidSignatureException(f"SignedHeaders names headers that are not there: {', '.join(absent)}.")
    return signed


# -- checking ---------------------------------------------------------------------------------------------------


def _check_date(stamp: str, scope: Scope, now: datetime, skew: timedelta) -> None:
    signed_at = _read_date(stamp) if len(stamp) == _DATE_LENGTH else None
    if signed_at is None:
        raise IncompleteSignatureException("X-Amz-Date must be a date of the form 20260131T120000Z.")
    if stamp[:8] != scope.date:
        raise InvalidSignatureException(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{scope.date}' != '{stamp[:8]}', from '{stamp}'."
        )
    if abs(now - signed_at) > skew:
        raise InvalidSignatureException(_out_of_time(stamp, signed_at, now, skew))


def _out_of_time(stamp: str, signed_at: datetime, now: datetime, skew: timedelta) -> str:
    minutes = int(skew.total_seconds() // 60)
    limit = f"({now:{DATE_FORMAT}} {'-' if signed_at < now else '+'} {minutes} min.)"
    if signed_at < now:
        return f"Signature expired: {stamp} is now earlier than {now - skew:{DATE_FORMAT}} {limit}"
    return f"Signature not yet current: {stamp} is still later than {now + skew:{DATE_FORMAT}} {limit}"


@lru_cache(maxsize=1024)
def _read_date(stamp: str) -> datetime | None:
    if not _match_date(stamp):
        return None
    try:
        return datetime.strptime(stamp, DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def _check_payload_hash(request: RawRequest) -> None:
    stated = ",".join(request.headers["x-amz-content-sha256"])
    if not hmac.compare_digest(stated.encode(_RAW), _hash(request.body).encode()):
        raise InvalidSignatureException(
            "X-Amz-Content-SHA256 is not the SHA-256 of the body: unsigned and streamed payloads are not taken."
        )


def _signature(request: RawRequest, front: _Front, stamp: str, secret: str) -> str:
    canonical = canonical_request(request, front.signed_headers)
    digest = hashlib.sha256(canonical.encode(_RAW)).hexdigest()
    to_sign = f"{ALGORITHM}\n{stamp}\n{front.credential_scope}\n{digest}"
    key = signing_key(secret, front.scope.date, front.scope.region)
    return hmac.digest(key, to_sign.encode(_RAW), "sha256").hex()


@lru_cache(maxsize=1024)
def signing_key(secret: str, date: str, region: str) -> bytes:
    """Derive the signing key of a secret, day and region: four HMACs, cached since they are the same all day."""
    key = hmac.digest(f"AWS4{secret}".encode(), date.encode(_RAW), "sha256")
    for part in (region, SERVICE, TERMINATOR):
        key = hmac.digest(key, part.encode(_RAW), "sha256")
    return key


def canonical_request(request: RawRequest, signed_headers: Sequence[str]) -> str:
    """Return the canonical request, which both sides sign."""
    path, query, names = request.path, request.query, tuple(signed_headers)
    signed = _signed(names) if _are_kept(names) else _signed.__wrapped__(names)
    return "\n".join(
        (
            request.method,
            "/" if path == "/" else _canonical_path(path),
            _canonical_query(query) if query else "",
            _header_lines(request.headers, signed),
            signed.names,
            hashlib.sha256(request.body).hexdigest(),
        )
    )


@lru_cache(maxsize=256)
def _signed(names: tuple[str, ...]) -> _Signed:
    """Return the values that all requests with the same signed headers share."""
    lines = "".join(f"{name.replace('%', '%%')}:%s\n" for name in names)
    return _Signed(";".join(names), itemgetter(*names), lines)


def _header_lines(headers: Mapping[str, Sequence[str]], signed: _Signed) -> str:
    """Return the canonical header lines. Values of nearly all clients need no folding."""
    values = signed.read(headers)
    lines = signed.lines % tuple(map(_first, values)) if max(map(len, values)) == 1 else "\t"
    if "\t" in lines or "  " in lines or ": " in lines or " \n" in lines:
        return "".join(
            [f"{name}:{_folded(each)}\n" for name, each in zip(signed.names.split(";"), values, strict=True)]
        )
    return lines


_first: Final = itemgetter(0)


def _folded(values: Sequence[str]) -> str:
    """Trim values and collapse runs of blanks; values of a repeated header are joined by commas."""
    return _trimmed(values[0]) if len(values) == 1 else ",".join(map(_trimmed, values))


def _trimmed(value: str) -> str:
    value = value.strip(" \t")
    return _SPACES.sub(" ", value) if "  " in value or "\t" in value else value


def _canonical_path(path: str) -> str:
    return quote(path, safe="/-_.~", encoding=_RAW) or "/"


def _canonical_query(query: str) -> str:
    pairs = (part.partition("=") for part in query.split("&"))
    encoded = ((_encoded(name), _encoded(value)) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


def _encoded(text: str) -> str:
    return quote(unquote(text, encoding=_RAW), safe="-_.~", encoding=_RAW)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
