"""Signature Version 4 without a server: botocore signs in every form, and the check accepts or refuses it."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from hsmkms.errors import (
    ApiError,
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)
from hsmkms.server.aws import sigv4
from hsmkms.server.messages import RawRequest
from hsmkms.server.process.heads import joined

ACCESS_KEY_ID = "AKIDEXAMPLEKMS000001"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # noqa: S105 - the documentation's example
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STAMP = "20260102T030405Z"
FIVE = timedelta(minutes=5)
BODY = b'{"KeyId":"alias/test"}'
URL = "https://kms.us-east-1.amazonaws.com/"
USUAL = (
    ("Content-Type", "application/x-amz-json-1.1"),
    ("Host", "kms.us-east-1.amazonaws.com"),
    ("X-Amz-Date", STAMP),
    ("X-Amz-Target", "TrentService.DescribeKey"),
)
VECTOR_AUTHORIZATION = (
    f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/20260102/us-east-1/kms/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date;x-amz-target, "
    "Signature=836f22b59d5041c8d3ad64869f1405a8e639e280fadb7c4a8188220ad5dcc987"
)

Headers = tuple[tuple[str, str], ...]


class Credential(NamedTuple):
    """A credential, as the server's endpoint looks it up."""

    secret: str


CREDENTIAL = Credential(SECRET)


def find(access_key_id: str) -> Credential | None:
    """Return the credential of the only access key."""
    return CREDENTIAL if access_key_id == ACCESS_KEY_ID else None


def raw(headers: Headers, body: bytes = BODY, url: str = URL, method: str = "POST") -> RawRequest:
    """What the server receives: names in lower case, bytes as one character each."""
    received: dict[str, str] = {}
    for name, value in headers:
        known = name.lower()
        received[known] = joined(received[known], value) if known in received else value
    parts = urlsplit(url)
    return RawRequest(method, parts.path, parts.query, received, body)


def sign(
    headers: Headers = USUAL,
    body: bytes = BODY,
    url: str = URL,
    method: str = "POST",
    scope: tuple[str, str] = ("kms", "us-east-1"),
    credentials: tuple[str, str] = (ACCESS_KEY_ID, SECRET),
) -> str:
    """The Authorization that botocore makes for a request at the time of its X-Amz-Date."""
    request = AWSRequest(method, url, data=body)
    request.headers = HTTPHeaders()
    for name, value in headers:
        request.headers.add_header(name, value)
    request.context["timestamp"] = next((value for name, value in headers if name.lower() == "x-amz-date"), STAMP)
    signer = SigV4Auth(Credentials(*credentials), *scope)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    names = signer.signed_headers(signer.headers_to_sign(request))
    return f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={names}, Signature={signature}"


def verify(request: RawRequest, now: datetime = NOW, skew: timedelta = FIVE) -> sigv4.Scope:
    """Check a request as the server does."""
    signing, credential = sigv4.verify(request, find, now, skew)
    assert credential is CREDENTIAL
    signing.check(request, request.headers["authorization"].partition("Signature=")[2][:64], now, skew)
    return signing.scope


def authorized(headers: Headers, authorization: str, body: bytes = BODY, url: str = URL) -> RawRequest:
    """A received request with its Authorization."""
    return raw((*headers, ("Authorization", authorization)), body, url)


def replaced(name: str, value: str | None) -> Headers:
    """The usual headers with another value for one of them, or without it."""
    kept = tuple((each, old) for each, old in USUAL if each.lower() != name.lower())
    return kept if value is None else tuple(sorted((*kept, (name, value)), key=lambda pair: pair[0].lower()))


# -- what is taken ----------------------------------------------------------------------------------------------


def test_vector() -> None:
    """The canonical request, the signing key and the signature of a request that botocore once signed."""
    request = authorized(USUAL, VECTOR_AUTHORIZATION)
    canonical = sigv4.canonical_request(
        request, sigv4.SignedHeaders.of(("content-type", "host", "x-amz-date", "x-amz-target"))
    )
    assert (
        hashlib.sha256(canonical.encode()).hexdigest()
        == "f642557edd12c9e4a4c473ae73263b35c4a8daf81795648cf4aa40044e6fbe89"
    )
    assert (
        sigv4.signing_key(SECRET, "20260102", "us-east-1").hex()
        == "11430ad8a00c2d57affadef989330e493df112710a5c800ad0feba27ebe1c9fe"
    )
    assert verify(request) == sigv4.Scope(ACCESS_KEY_ID, "20260102", "us-east-1")


FORMS: dict[str, Headers] = {
    "usual": USUAL,
    "trimmed": replaced("Content-Type", "  application/x-amz-json-1.1 \t"),
    "spaces inside": (*USUAL, ("X-Amz-Note", "a   b  c")),
    "tab inside": (*USUAL, ("X-Amz-Note", "a\tb")),
    "the same header twice": (*USUAL, ("X-Amz-Note", "one"), ("X-Amz-Note", " two ")),
    "an empty header": (*USUAL, ("X-Amz-Note", "")),
    "commas": (*USUAL, ("X-Amz-Note", "a, b,c")),
    "a port": replaced("Host", "localhost:8443"),
    "no content type": replaced("Content-Type", None),
    "another content type": replaced("Content-Type", "application/json; charset=utf-8"),
    "names in capitals": tuple((name.upper(), value) for name, value in USUAL),
    "names in lower case": tuple((name.lower(), value) for name, value in USUAL),
    "the payload's hash": (*USUAL, ("X-Amz-Content-SHA256", hashlib.sha256(BODY).hexdigest())),
    "more headers": (*USUAL, ("A", "1"), ("Zz-Top", "2"), ("X-Amzn-Trace", "3")),
}


@pytest.mark.parametrize("headers", FORMS.values(), ids=FORMS)
def test_forms_of_headers(headers: Headers) -> None:
    """Whatever form a client sends its headers in, it signs the canonical one, and so does the check."""
    assert verify(authorized(headers, sign(headers))).access_key_id == ACCESS_KEY_ID


def test_bytes_beyond_ascii() -> None:
    """Headers beyond ASCII are signed as the bytes that were sent."""
    headers = (*USUAL, ("X-Amz-Note", "\u00fcberall \u00e0 \u4e2d"))
    received = tuple((name, value.encode().decode("latin-1")) for name, value in headers)
    assert verify(authorized(received, sign(headers))).region == "us-east-1"


@pytest.mark.parametrize("query", ["", "a=1", "b=2&a=1", "a=2&a=1", "empty=", "a=%20%2F", "A=1&a=1", "a=b%3Dc"])
def test_queries(query: str) -> None:
    """A query is signed in its sorted and encoded form."""
    url = f"{URL}?{query}"
    assert verify(authorized(USUAL, sign(url=url), url=url)).date == "20260102"


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from("abcdef"), st.text("abc \t,;=:/\u00e9", max_size=12)))
@settings(max_examples=100, deadline=None)
def test_any_body_and_headers(body: bytes, more: dict[str, str]) -> None:
    """Bodies of all bytes and headers of all kinds are checked as botocore signs them."""
    headers = (*USUAL, *((f"X-Amz-{name}", value) for name, value in more.items()))
    received = tuple((name, value.encode().decode("latin-1")) for name, value in headers)
    assert verify(authorized(received, sign(headers, body), body)).access_key_id == ACCESS_KEY_ID


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(", ", ","),
        lambda text: text.replace(", ", ",  "),
        lambda text: "AWS4-HMAC-SHA256 " + ", ".join(reversed(text.removeprefix("AWS4-HMAC-SHA256 ").split(", "))),
    ],
    ids=["no spaces", "two spaces", "another order"],
)
def test_forms_of_authorization(change: Callable[[str], str]) -> None:
    """The parts of Authorization may stand in any order, with or without spaces between them."""
    assert verify(authorized(USUAL, change(VECTOR_AUTHORIZATION))).access_key_id == ACCESS_KEY_ID


# -- what is refused --------------------------------------------------------------------------------------------


def refused(request: RawRequest, **how: Any) -> ApiError:  # noqa: ANN401 - time and skew
    """The error that a request gives."""
    with pytest.raises(ApiError) as caught:
        verify(request, **how)
    return caught.value


def test_no_signature() -> None:
    """A request without Authorization, also one that is signed in its query, bears no signature."""
    assert isinstance(refused(raw(USUAL)), MissingAuthenticationTokenException)
    request = AWSRequest("POST", URL, data=BODY, headers=dict(USUAL))
    SigV4QueryAuth(Credentials(ACCESS_KEY_ID, SECRET), "kms", "us-east-1").add_auth(request)
    assert "X-Amz-Signature" in request.url
    assert str(refused(raw(USUAL, url=request.url))).startswith("Missing Authentication Token")


@pytest.mark.parametrize(
    ("authorization", "words"),
    [
        ("", "must begin with AWS4-HMAC-SHA256"),
        ("Basic dXNlcjpwYXNz", "must begin with AWS4-HMAC-SHA256"),
        (VECTOR_AUTHORIZATION.replace("SHA256", "SHA1"), "must begin with AWS4-HMAC-SHA256"),
        (VECTOR_AUTHORIZATION.replace("AWS4-HMAC", "AWS4-ECDSA-P256"), "must begin with AWS4-HMAC-SHA256"),
        ("AWS4-HMAC-SHA256", "requires 'Credential' parameter"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e", "requires 'SignedHeaders' parameter. Authorization header requires"),
        (VECTOR_AUTHORIZATION.partition(", Signature")[0], "requires 'Signature' parameter"),
        (VECTOR_AUTHORIZATION.replace("Signature=836f", "Signature=, x=836f"), "64 lower-case hex digits"),
        (f"{VECTOR_AUTHORIZATION}, Signature={'0' * 64}", "must have the form"),
        (f"{VECTOR_AUTHORIZATION},{VECTOR_AUTHORIZATION}", "must have the form"),
        (VECTOR_AUTHORIZATION.replace("836f", "836"), "64 lower-case hex digits"),
        (VECTOR_AUTHORIZATION.replace("836f", "836F"), "64 lower-case hex digits"),
        (VECTOR_AUTHORIZATION.replace("/kms/", "/"), "exactly 5 slash-delimited elements"),
        (VECTOR_AUTHORIZATION.replace("AKID", "AKID" * 100), "exactly 5 slash-delimited elements"),
        (VECTOR_AUTHORIZATION.replace("content-type;host", "host;content-type"), "lower case, sorted"),
        (VECTOR_AUTHORIZATION.replace("content-type;host", "Content-Type;host"), "lower case, sorted"),
        (VECTOR_AUTHORIZATION.replace("content-type;host", "host;host"), "lower case, sorted"),
    ],
)
def test_authorization_that_cannot_be_read(authorization: str, words: str) -> None:
    """What is missing or wrong in Authorization is named, and nothing of it repeated."""
    error = refused(authorized(USUAL, authorization))
    assert isinstance(error, IncompleteSignatureException)
    assert words in str(error)
    assert "836f22b5" not in str(error)


@pytest.mark.parametrize("date", [None, "", "2026-01-02T03:04:05Z", "20260102", "20260230T030405Z", STAMP + "0"])
def test_dates_that_cannot_be_read(date: str | None) -> None:
    """X-Amz-Date must be there and be a date."""
    error = refused(authorized(replaced("X-Amz-Date", date), VECTOR_AUTHORIZATION))
    assert isinstance(error, IncompleteSignatureException)
    assert "X-Amz-Date" in str(error)


@pytest.mark.parametrize(
    ("authorization", "words"),
    [
        (sign(scope=("s3", "us-east-1")), "scoped to correct service: 'kms'"),
        (sign(scope=("s3", "us-east-1")), "for 's3', which hsmkms does not serve: set AWS_ENDPOINT_URL_KMS instead"),
        (sign().replace("aws4_request", "aws5_request"), "valid terminator: 'aws4_request'"),
        (
            sign().replace("/20260102/", "/20260101/"),
            f"version of date from HTTP: '20260101' != '20260102', from '{STAMP}'.",
        ),
        (sign().replace("host;", ""), "must be signed: host"),
        (sign().replace("x-amz-date;", ""), "must be signed: x-amz-date"),
        (sign().replace(";x-amz-target", ""), "must be signed: x-amz-target"),
        (sign().replace("content-type;", "absent;content-type;"), "not there: absent"),
        (sign().replace("Signature=", "Signature=" + "0" * 64)[:-64], sigv4.WRONG_SIGNATURE),
        (sign(credentials=(ACCESS_KEY_ID, "another secret")), sigv4.WRONG_SIGNATURE),
        (sign().replace("us-east-1", "eu-west-1"), sigv4.WRONG_SIGNATURE),
        (sign(body=b"{}"), sigv4.WRONG_SIGNATURE),
        (sign(url=f"{URL}?a=1"), sigv4.WRONG_SIGNATURE),
        (sign(method="GET"), sigv4.WRONG_SIGNATURE),
        (sign(replaced("X-Amz-Target", "TrentService.Encrypt")), sigv4.WRONG_SIGNATURE),
        (sign(replaced("Host", "elsewhere")), sigv4.WRONG_SIGNATURE),
    ],
)
def test_signatures_that_do_not_fit(authorization: str, words: str) -> None:
    """A signature of another service, day, region, secret, body, query, method, operation or host is refused."""
    error = refused(authorized(USUAL, authorization))
    assert isinstance(error, InvalidSignatureException)
    assert words in str(error)


def test_unsigned_amazon_header() -> None:
    """A header of Amazon's that was added on the way is refused."""
    error = refused(authorized((*USUAL, ("X-Amz-Note", "x")), sign()))
    assert str(error) == "These headers must be signed: x-amz-note."


@pytest.mark.parametrize("told", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "0" * 64, "", "\u00e9"])
def test_payloads_that_are_not_signed(told: str) -> None:
    """A payload hash that is not the body's is refused, even if it is signed."""
    headers = (*USUAL, ("X-Amz-Content-SHA256", told))
    error = refused(authorized(headers, sign(headers)))
    assert isinstance(error, InvalidSignatureException)
    assert "X-Amz-Content-SHA256" in str(error)


def test_session_tokens() -> None:
    """Temporary credentials are refused in words, whether the token is signed or not."""
    headers = (*USUAL, ("X-Amz-Security-Token", "FwoGZXIvYXdzEXAMPLE"))
    for authorization in (sign(headers), sign()):
        error = refused(authorized(headers, authorization))
        assert isinstance(error, UnrecognizedClientException)
        assert "AWS_SESSION_TOKEN" in str(error)
    other = refused(authorized(headers, sign(headers, scope=("s3", "us-east-1"))))
    assert "AWS_ENDPOINT_URL_KMS" in str(other)


def test_unknown_access_keys() -> None:
    """An unknown access key gives AWS's words, whatever it signs; each check before that ignores who it is."""
    for scope, secret in (("us-east-1", SECRET), ("xx-nowhere-9", "x")):
        error = refused(authorized(USUAL, sign(scope=("kms", scope), credentials=("AKIDEXAMPLEKMS000002", secret))))
        assert isinstance(error, UnrecognizedClientException)
        assert str(error) == "The security token included in the request is invalid."
    for change in (("aws4_request", "aws5"), ("/kms/", "/s3/"), ("20260102", "20260103"), ("host;", "")):
        known = sign().replace(*change)
        unknown = known.replace(ACCESS_KEY_ID, "AKIDEXAMPLEKMS000002")
        errors = [refused(authorized(USUAL, each)) for each in (known, unknown)]
        assert repr(errors[0]) == repr(errors[1])


def test_same_work_for_unknown_access_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature is computed and compared also for an access key that is not there."""
    computed = []
    real = sigv4.signing_key
    monkeypatch.setattr(sigv4, "signing_key", lambda *args: computed.append(args) or real(*args))
    refused(authorized(USUAL, VECTOR_AUTHORIZATION.replace(ACCESS_KEY_ID, "AKIDEXAMPLEKMS000002")))
    assert len(computed) == 1


# -- time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [5, 15])
def test_clock_skew(minutes: int) -> None:
    """A signature is good for the configured minutes before and after its time, to the second."""
    request = authorized(USUAL, VECTOR_AUTHORIZATION)
    skew, second = timedelta(minutes=minutes), timedelta(seconds=1)
    assert verify(request, NOW + skew, skew).region == "us-east-1"
    assert verify(request, NOW - skew, skew).region == "us-east-1"
    for now in (NOW + skew + second, NOW - skew - second):
        assert isinstance(refused(request, now=now, skew=skew), InvalidSignatureException)


def test_words_for_clock_skew() -> None:
    """AWS's words, from which SDKs see that their clock is wrong."""
    request = authorized(USUAL, VECTOR_AUTHORIZATION)
    assert str(refused(request, now=NOW + timedelta(hours=1))) == (
        "Signature expired: 20260102T030405Z is now earlier than 20260102T035905Z (20260102T040405Z - 5 min.)"
    )
    assert str(refused(request, now=NOW - timedelta(hours=1))) == (
        "Signature not yet current: 20260102T030405Z is still later than 20260102T020905Z (20260102T020405Z + 5 min.)"
    )


def test_midnight() -> None:
    """A signature of yesterday's last minute is good in today's first ones, with yesterday's scope."""
    headers = replaced("X-Amz-Date", "20260102T235930Z")
    scope = verify(authorized(headers, sign(headers)), datetime(2026, 1, 3, 0, 1, tzinfo=UTC))
    assert scope.date == "20260102"
