"""Plans of requests: which requests share one, that each needs its own signature, and what ends a plan."""

import json
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from msgspec.structs import replace
from service_sites import REGION, new_key

from hsmkms.kms import Kms
from hsmkms.model.keys import DisableKeyRequest
from hsmkms.server.aws import plans, sigv4
from hsmkms.server.aws.endpoint import Endpoint
from hsmkms.server.aws.quota import DEFAULT_RATES, Quota
from hsmkms.server.messages import RawRequest, Response
from hsmkms.server.protocol import Handled, Source

NUMBERS = count()
USE = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]})
FIVE = timedelta(minutes=5)


class Client:
    """Signs requests of a user, and has them answered by an endpoint; ``verified`` counts complete verifications."""

    def __init__(self, kms: Kms) -> None:
        self.kms = kms
        self.user = f"plan-{next(NUMBERS)}"
        kms.operator.credentials.create_user(self.user)
        kms.operator.identities.put_user_policy(self.user, "use", USE)
        self.key = kms.operator.credentials.create_access_key(self.user)
        self.key_id = new_key(kms).key_id
        self.endpoint = Endpoint(kms, skew=FIVE, quota=Quota(DEFAULT_RATES))
        self.verified = 0

    def request(self, number: int = 0, operation: str = "Encrypt", **headers: str) -> RawRequest:
        """A signed request, with a body of its own for each number."""
        body = json.dumps({"KeyId": self.key_id, "Plaintext": f"{number:04}"}).encode()
        usual = {"Host": "kms", "X-Amz-Target": f"TrentService.{operation}"}
        signed = AWSRequest("POST", "http://kms/", data=body, headers=usual | headers)
        secret = Credentials(self.key.access_key_id, self.key.secret_access_key)
        SigV4Auth(secret, "kms", REGION).add_auth(signed)
        return RawRequest("POST", "/", "", {name.lower(): value for name, value in signed.headers.items()}, body)

    def answer(self, request: RawRequest) -> Response:
        """The response to a request."""
        endpoint, handled = self.endpoint, Handled(request_id="11111111-2222-3333-4444-555555555555")
        endpoint.authenticate(request, Source("127.0.0.1", secure=False), endpoint.operation_of(request), handled)
        endpoint.perform(handled)
        endpoint.render(handled)
        assert handled.response is not None
        return handled.response

    def error(self, request: RawRequest) -> str | None:
        """The error of the response to a request, or None."""
        return self.answer(request).error

    def kept(self) -> dict[Any, Any]:
        """The plans at this moment."""
        return self.kms.operator.credentials.derived().plans


@pytest.fixture
def client(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client whose complete verifications are counted."""
    client, real = Client(kms), sigv4.verify

    def counted(*arguments: Any) -> Any:  # noqa: ANN401 - as the real one has it
        client.verified += 1
        return real(*arguments)

    monkeypatch.setattr(sigv4, "verify", counted)
    return client


def changed(request: RawRequest, name: str, value: str) -> RawRequest:
    """A request with another value of a header."""
    return replace(request, headers={**request.headers, name: value})


def test_requests_that_are_alike_share_a_plan(client: Client) -> None:
    """Only the first is verified from its Authorization on; another operation or another header has another plan."""
    assert [client.error(client.request(number)) for number in range(5)] == [None] * 5
    assert client.verified == 1
    assert client.error(client.request(operation="DescribeKey")) is None
    assert client.error(client.request(**{"X-Amz-Note": "1"})) is None
    assert client.verified == 3
    assert [client.error(client.request(number)) for number in range(2)] == [None] * 2
    assert client.verified == 3


def test_each_has_its_own_signature(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a plan as without one, what does not fit its signature, or is too old, is refused."""
    good = client.request(1)
    assert client.error(good) is None
    front, _, signature = good.headers["authorization"].rpartition("=")
    wrong = "0" * 64 if signature != "0" * 64 else "1" * 64
    for bad, error in (
        (replace(good, body=good.body.replace(b"0001", b"0002")), "InvalidSignatureException"),
        (replace(client.request(2), headers=good.headers), "InvalidSignatureException"),
        (changed(good, "authorization", f"{front}={wrong}"), "InvalidSignatureException"),
        (changed(good, "authorization", f"{front}={signature.upper()}"), "IncompleteSignatureException"),
        (changed(good, "authorization", f"{front}=é"), "IncompleteSignatureException"),
        (changed(good, "host", "other"), "InvalidSignatureException"),
        (changed(good, "x-amz-date", "20200101T000000Z"), "InvalidSignatureException"),
        (changed(good, "x-amz-date", "yesterday"), "IncompleteSignatureException"),
        (replace(good, query="a=1"), "InvalidSignatureException"),
    ):
        assert client.error(bad) == error, bad
    late = client.endpoint._clock() + FIVE + timedelta(minutes=1)
    monkeypatch.setattr(client.endpoint, "_clock", lambda: late)
    assert client.error(good) == "InvalidSignatureException"
    assert client.error(client.request(3, **{"X-Amz-Content-Sha256": "0" * 64})) == "InvalidSignatureException"


def test_the_hash_of_the_body_is_checked_with_a_plan(client: Client) -> None:
    """X-Amz-Content-SHA256 must be the body's, also where it is signed as it stands."""
    header = {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
    assert client.error(client.request(1)) is None
    assert client.error(client.request(1, **header)) == "InvalidSignatureException"
    assert client.error(client.request(1, **header)) == "InvalidSignatureException"


ENDS: dict[str, tuple[Callable[[Client], object], str]] = {
    "an inactive access key": (
        lambda client: client.kms.operator.credentials.update_access_key(client.key.access_key_id, active=False),
        "UnrecognizedClientException",
    ),
    "a deleted access key": (
        lambda client: client.kms.operator.credentials.delete_access_key(client.key.access_key_id),
        "UnrecognizedClientException",
    ),
    "no policy": (
        lambda client: client.kms.operator.identities.delete_user_policy(client.user, "use"),
        "AccessDeniedException",
    ),
    "a disabled key": (
        lambda client: client.kms.disable_key(DisableKeyRequest(key_id=client.key_id)),
        "DisabledException",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_change_ends_every_plan(client: Client, name: str) -> None:
    """The next request after a change is verified from the beginning, and answered as things are now."""
    assert [client.error(client.request(number)) for number in range(2)] == [None] * 2
    assert client.kept()
    change, error = ENDS[name]
    change(client)
    assert not client.kept()
    assert client.error(client.request(3)) == error
    assert client.verified == 2


def test_a_plan_read_before_a_change_is_not_kept_after_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a record changes while the first request is verified, its plan is not there for the second."""
    real = client.kms.operator.credentials.find

    def find(access_key_id: str) -> object:
        found = real(access_key_id)
        client.kms.operator.credentials.update_access_key(access_key_id, active=False)
        return found

    monkeypatch.setattr(client.endpoint._credentials, "find", find)
    client.error(client.request(1))
    monkeypatch.undo()
    assert not client.kept()
    assert client.error(client.request(2)) == "UnrecognizedClientException"


def test_what_is_not_kept(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused requests, unusual forms of Authorization, and long headers leave no plan; full caches begin again."""
    good = client.request(1)
    front, _, signature = good.headers["authorization"].rpartition(", ")
    algorithm, _, parts = front.partition(" ")
    assert client.error(changed(good, "authorization", f"{front}, Signature={'0' * 64}")) is not None
    assert client.error(client.request(operation="Nothing")) == "UnknownOperationException"
    assert client.error(changed(good, "authorization", f"{algorithm} {signature}, {parts}")) is None
    assert client.error(client.request(1, **{f"X-Amz-{'a' * plans.MAX_ALIKE}": "1"})) is None
    assert not client.kept()
    monkeypatch.setattr(plans, "MAX_PLANS", 2)
    for number in range(5):
        assert client.error(client.request(1, **{f"X-Amz-{number}": "1"})) is None
        assert 1 <= len(client.kept()) <= 2


def test_a_region_that_is_not_served_has_no_plan(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature for another region is refused each time."""
    monkeypatch.setattr(client.endpoint, "_regions", frozenset({"eu-west-3"}))
    assert [client.error(client.request(number)) for number in range(2)] == ["InvalidSignatureException"] * 2
    assert not client.kept()
