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
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
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
BEFORE_SIGNATURE: Final = ", Signature="
_NOBODY: Final = "nobody's secret, so that an unknown access key costs the same time"

_match_usual: Final = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^, ]{1,256}), *SignedHeaders=([^, ]{1,2048}), Signature=((?:(?!, Signature=).)*)"
).fullmatch
_match_date: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII).fullmatch
_match_signature: Final = re.compile(r"[0-9a-f]{64}", re.ASCII).fullmatch
_DATE_LENGTH: Final = 16
_SPACES: Final = re.compile(r"[ \t]+")
_RAW: Final = "latin-1"
"""Encoding of the head as text, one character per byte; the bytes are signed as they were sent."""

_PARTS: Final = ("Credential", "SignedHeaders", "Signature")
_MAX_CREDENTIAL: Final = 256
"""More than the longest access key id with every scope."""


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


class SignedHeaders(Struct, frozen=True):
    """Signed headers: their names in one line, the getter of their values, and the format of the usual lines."""

    names: str
    read: Callable[[Mapping[str, str]], Any]
    lines: str

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Return those of these names, at least one."""
        return cls(";".join(names), itemgetter(*names), "".join(f"{name.replace('%', '%%')}:%s\n" for name in names))


class Signing(Struct, frozen=True):
    """Common parts of the signatures of all requests of an access key with the same scope and signed headers.

    ``key``: the state of HMAC-SHA-256 after the signing key, which is copied for each signature.
    """

    scope: Scope
    credential_scope: str
    headers: SignedHeaders
    key: HMAC

    def check(self, request: RawRequest, signature: str, now: datetime, skew: timedelta) -> None:
        """Raise one of AWS's errors unless the request has this signature and was signed at about this time."""
        _check_unsigned(request, self.scope, now, skew)
        if not self.matches(request, signature):
            _check_form(signature)
            raise InvalidSignatureException(WRONG_SIGNATURE)

    def matches(self, request: RawRequest, signature: str) -> bool:
        """Return True if the request has this signature."""
        canonical = canonical_request(request, self.headers)
        digest = hashlib.sha256(canonical.encode(_RAW)).hexdigest()
        to_sign = f"{ALGORITHM}\n{request.headers['x-amz-date']}\n{self.credential_scope}\n{digest}"
        computation = self.key.copy()
        computation.update(to_sign.encode(_RAW))
        return hmac.compare_digest(computation.finalize().hex().encode(), signature.encode(_RAW))


def verify(
    request: RawRequest, find: Callable[[str], Credential | None], now: datetime, skew: timedelta
) -> tuple[Signing, Credential]:
    """Verify a request's signature; return its common parts and the credential. Every failure is an error of AWS's.

    ``find``: returns the credential of an active access key, or None.
    """
    scope, signed_headers, signature = _read(request)
    _check_unsigned(request, scope, now, skew)
    credential = find(scope.access_key_id)
    secret = credential.secret if credential is not None else _NOBODY
    key = HMAC(signing_key(secret, scope.date, scope.region), SHA256())
    credential_scope = f"{scope.date}/{scope.region}/{SERVICE}/{TERMINATOR}"
    signing = Signing(scope, credential_scope, SignedHeaders.of(signed_headers), key)
    matches = signing.matches(request, signature)
    if credential is None:
        raise UnrecognizedClientException(WRONG_CLIENT)
    if not matches:
        raise InvalidSignatureException(WRONG_SIGNATURE)
    return signing, credential


def check_head(head: RawRequest, now: datetime, skew: timedelta) -> Scope:
    """Return the scope that a head states, before its body has arrived; the same errors as ``verify``.

    This proves nothing: it only refuses requests that do not look signed.
    """
    scope, _, _ = _read(head)
    _check_date(head.headers["x-amz-date"], scope, now, skew)
    return scope


def is_usual(request: RawRequest) -> bool:
    """Return True if the Authorization header has its parts in the usual order, with the signature at its end."""
    return _match_usual(request.headers.get("authorization", "")) is not None


# -- reading ----------------------------------------------------------------------------------------------------


def _read(request: RawRequest) -> tuple[Scope, Sequence[str], str]:
    """Parse the Authorization header into scope, names of the signed headers, and signature, and check them."""
    headers = request.headers
    if "authorization" not in headers:
        raise MissingAuthenticationTokenException(
            "Missing Authentication Token: sign the request (Signature Version 4)."
        )
    header = headers["authorization"]
    match = _match_usual(header)
    credential, names, signature = match.groups() if match is not None else _parts(header)
    scope = _read_scope(credential)
    if "x-amz-security-token" in headers:
        raise UnrecognizedClientException(NO_SESSION_TOKENS)
    if "x-amz-date" not in headers:
        raise IncompleteSignatureException("Authorization header requires existence of a 'X-Amz-Date' header.")
    signed_headers = _signed_headers(names, tuple(headers))
    _check_form(signature)
    return scope, signed_headers, signature


def _check_form(signature: str) -> None:
    if not _match_signature(signature):
        raise IncompleteSignatureException("Signature must be 64 lower-case hex digits.")


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


def _check_unsigned(request: RawRequest, scope: Scope, now: datetime, skew: timedelta) -> None:
    """Check what needs no secret: the time of the request, and the hash of its body, if it states one."""
    headers = request.headers
    _check_date(headers["x-amz-date"], scope, now, skew)
    if "x-amz-content-sha256" in headers:
        _check_payload_hash(request)


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
    stated = request.headers["x-amz-content-sha256"]
    if not hmac.compare_digest(stated.encode(_RAW), _hash(request.body).encode()):
        raise InvalidSignatureException(
            "X-Amz-Content-SHA256 is not the SHA-256 of the body: unsigned and streamed payloads are not taken."
        )


def signing_key(secret: str, date: str, region: str) -> bytes:
    """Derive the signing key of a secret, day and region: four HMACs."""
    key = hmac.digest(f"AWS4{secret}".encode(), date.encode(_RAW), "sha256")
    for part in (region, SERVICE, TERMINATOR):
        key = hmac.digest(key, part.encode(_RAW), "sha256")
    return key


def canonical_request(request: RawRequest, signed: SignedHeaders) -> str:
    """Return the canonical request, which both sides sign."""
    path, query = request.path, request.query
    lines = signed.lines % signed.read(request.headers)
    if "\t" in lines or "  " in lines or ": " in lines or " \n" in lines:  # rare: nearly no client's values need it
        lines = "".join(f"{name}:{_trimmed(request.headers[name])}\n" for name in signed.names.split(";"))
    return "\n".join(
        (
            request.method,
            "/" if path == "/" else _canonical_path(path),
            _canonical_query(query) if query else "",
            lines,
            signed.names,
            hashlib.sha256(request.body).hexdigest(),
        )
    )


def _trimmed(value: str) -> str:
    """Return a header's value without blanks at its ends, and with runs of blanks as one."""
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
