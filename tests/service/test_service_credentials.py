"""Access keys: what a request costs that names one which is good for nothing."""

import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from service_sites import REGION, StoppedClock
from sqlalchemy import event

from hsmkms.errors import UnrecognizedClientException
from hsmkms.hsm.ciphers import Ciphers
from hsmkms.hsm.own_objects import OwnObjects
from hsmkms.kms import Kms
from hsmkms.server.aws import sigv4
from hsmkms.server.aws.sigv4 import DATE_FORMAT
from hsmkms.server.messages import RawRequest

SIGNED = ("host", "x-amz-date", "x-amz-target")
TOKEN_CALLS = ((Ciphers, "decrypt"), (Ciphers, "encrypt"), (OwnObjects, "mac"), (Ciphers, "random"))


def request_of(access_key_id: str, stamp: str) -> RawRequest:
    """A request whose signature is wrong, by an access key."""
    credential = f"{access_key_id}/{stamp[:8]}/{REGION}/kms/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={';'.join(SIGNED)}, Signature={'0' * 64}"
    headers = {"authorization": authorization, "host": "h", "x-amz-date": stamp, "x-amz-target": "T"}
    return RawRequest(method="POST", path="/", query="", headers=headers, body=b"{}")


@pytest.fixture
def work(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Records the accesses for a request by an access key: database, HMACs, token, in their order."""
    done: list[str] = []
    now = StoppedClock()()

    def counted(holder: Any, name: str, what: str) -> None:  # noqa: ANN401 - a class or a module
        real = getattr(holder, name)

        def call(*args: Any, **more: Any) -> Any:  # noqa: ANN401 - as the real one has it
            done.append(what)
            return real(*args, **more)

        monkeypatch.setattr(holder, name, call)

    def refused(access_key_id: str) -> list[str]:
        done.clear()
        with pytest.raises(UnrecognizedClientException, match="security token included in the request is invalid"):
            sigv4.verify(request_of(access_key_id, f"{now:{DATE_FORMAT}}"), secret_of, now, timedelta(minutes=5))
        return list(done)

    def secret_of(access_key_id: str) -> str | None:
        credential = kms.operator.credentials.find(access_key_id)
        return credential.secret if credential is not None else None

    for part, name in TOKEN_CALLS:
        counted(part, name, f"token: {name}")
    counted(hmac, "digest", "HMAC")
    counted(sigv4, "signing_key", "signing key")

    def statement(_conn: object, _cursor: object, text: str, *_: object) -> None:
        done.append("SQL" if text else "")

    engine = getattr(kms._core.store.meta, "_reader", None) or kms._core.store.meta._engine
    event.listen(engine, "before_cursor_execute", statement)
    yield refused
    event.remove(engine, "before_cursor_execute", statement)


def test_the_same_work_for_all_that_are_refused(kms: Kms, work: Callable[[str], list[str]]) -> None:
    """An access key that never was, one that was deleted and an inactive one cost the same, at every request."""
    operator = kms.operator.credentials
    operator.create_user("erin")
    for owner in ("erin", None):
        inactive, deleted = (operator.create_access_key(owner).access_key_id for _ in range(2))
        operator.find(inactive)  # its secret has been used
        operator.update_access_key(inactive, active=False)
        operator.delete_access_key(deleted)
        work("AKIA" + "A" * 16)  # the first after a change reads the change log
        first, *others = (work(each) for _ in range(2) for each in ("AKIA" + "B" * 16, deleted, inactive))
        assert all(other == first for other in others), (first, others)
        assert {"SQL", "HMAC", "signing key"} <= set(first)
        assert not [each for each in first if each.startswith("token")]


def test_an_active_one_is_unsealed_once(kms: Kms) -> None:
    """The secret of an active access key is opened by the token once, and again after it was inactive and is active."""
    operator = kms.operator.credentials
    access_key_id = operator.create_access_key(None).access_key_id
    first = operator.find(access_key_id)
    assert first is not None
    assert operator.find(access_key_id) is first
    operator.update_access_key(access_key_id, active=False)
    assert operator.find(access_key_id) is None
    operator.update_access_key(access_key_id, active=True)
    again = operator.find(access_key_id)
    assert again is not None
    assert again.secret == first.secret
    operator.delete_access_key(access_key_id)
    assert operator.find(access_key_id) is None
