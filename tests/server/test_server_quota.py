"""Token buckets, at moments that the test chooses."""

import pytest

from hsmkms.errors import ThrottlingException
from hsmkms.model.enums import Operation
from hsmkms.model.quotas import QUOTA_CLASSES
from hsmkms.server.aws.quota import DEFAULT_RATES, MAX_BUCKETS, TOO_FAST, Quota

ALICE, BOB = "arn:aws:iam::111122223333:user/alice", "arn:aws:iam::111122223333:user/bob"


def taken(quota: Quota, operation: Operation, now: float, principal: str = ALICE) -> int:
    """How many requests go through at one moment."""
    for count in range(1000):
        try:
            quota.spend(principal, operation, now)
        except ThrottlingException:
            return count
    return 1000


def test_rate_and_burst() -> None:
    """A bucket holds one second's requests, fills at its rate, and never above that."""
    quota = Quota({"CreateKey": 4.0})
    assert taken(quota, Operation.CREATE_KEY, 0.0) == 4
    with pytest.raises(ThrottlingException, match=TOO_FAST):
        quota.spend(ALICE, Operation.CREATE_KEY, 0.2)
    assert taken(quota, Operation.CREATE_KEY, 0.25) == 1
    assert taken(quota, Operation.CREATE_KEY, 1.0) == 3
    assert taken(quota, Operation.CREATE_KEY, 1000.0) == 4


def test_slow_rate() -> None:
    """A rate below one a second lets one request through, and the next when its time has come."""
    quota = Quota({"GetParametersForImport": 0.25})
    assert taken(quota, Operation.GET_PARAMETERS_FOR_IMPORT, 0.0) == 1
    assert taken(quota, Operation.GET_PARAMETERS_FOR_IMPORT, 3.9) == 0
    assert taken(quota, Operation.GET_PARAMETERS_FOR_IMPORT, 4.0) == 1


def test_principals_are_apart() -> None:
    """One user's requests do not count for another."""
    quota = Quota({"CreateKey": 2.0})
    assert taken(quota, Operation.CREATE_KEY, 0.0, ALICE) == 2
    assert taken(quota, Operation.CREATE_KEY, 0.0, BOB) == 2


def test_class_is_shared() -> None:
    """The operations of a class spend from one bucket, and from their own as well."""
    quota = Quota({"SymmetricCryptography": 5.0, "Encrypt": 2.0})
    assert taken(quota, Operation.ENCRYPT, 0.0) == 2
    assert taken(quota, Operation.DECRYPT, 0.0) == 3
    assert taken(quota, Operation.GENERATE_RANDOM, 0.0) == 0
    assert taken(quota, Operation.SIGN, 0.0) == 1000


def test_no_limit() -> None:
    """What is not named, and what has the rate 0, is not limited."""
    quota = Quota({"CreateKey": 0.0})
    assert taken(quota, Operation.CREATE_KEY, 0.0) == taken(quota, Operation.ENCRYPT, 0.0) == 1000


def test_defaults() -> None:
    """Without settings only what makes keys or takes them in is limited."""
    quota = Quota(DEFAULT_RATES)
    limited = {operation for operation in Operation if taken(quota, operation, 0.0) < 1000}
    assert limited == {
        *(Operation.CREATE_KEY, Operation.ROTATE_KEY_ON_DEMAND),
        *(Operation.GET_PARAMETERS_FOR_IMPORT, Operation.IMPORT_KEY_MATERIAL),
        *QUOTA_CLASSES["DataKeyPairs"],
    }


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users ask, memory stays bounded."""
    monkeypatch.setattr("hsmkms.server.aws.quota.MAX_BUCKETS", 100)
    quota = Quota({"CreateKey": 1.0})
    for number in range(1000):
        quota.spend(f"user {number}", Operation.CREATE_KEY, 0.0)
    assert len(quota._buckets) <= 100 < MAX_BUCKETS
