"""Grants through the service: making, using, handing on, retiring, revoking."""

from collections.abc import Callable
from typing import Any

import pytest
from lifecycle import new_empty_key, schedule
from service_sites import ACCOUNT, OTHER_REGION, REGION, new_alias, new_key, seal, unseal

from hsmkms.errors import (
    AccessDeniedException,
    DisabledException,
    DryRunOperationException,
    HsmKmsError,
    InvalidArnException,
    InvalidGrantIdException,
    InvalidGrantTokenException,
    InvalidMarkerException,
    KMSInvalidStateException,
    NotFoundException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model import grants, keys
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.grants import GrantConstraints, GrantListEntry
from hsmkms.model.ids import root_arn, user_arn

pytestmark = pytest.mark.both_engines

ROOT = root_arn(ACCOUNT)
ALICE, BOB, CAROL = (user_arn(ACCOUNT, name) for name in ("alice", "bob", "carol"))
RETIRE = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:RetireGrant","Resource":"*"}}'
PAIR = GrantConstraints(encryption_context_subset={"a": "1"})


@pytest.fixture(scope="module")
def callers(kms: Kms) -> dict[str, Caller]:
    """The users alice, bob and carol, none of whom has a policy."""
    for name in ("alice", "bob", "carol"):
        kms.operator.credentials.create_user(name)
    return {name: kms.caller(REGION, name) for name in ("alice", "bob", "carol")}


def grant(
    kms: Kms,
    key_id: str,
    *operations: str,
    grantee: str = ALICE,
    caller: Caller | None = None,
    **members: Any,  # noqa: ANN401 - members of the request
) -> grants.CreateGrantResponse:
    """Create a grant."""
    wanted = {"operations": list(operations) or ["Encrypt"], "grantee_principal": grantee, **members}
    return kms.create_grant(grants.CreateGrantRequest(key_id=key_id, **wanted), caller)


def listed(kms: Kms, key_id: str, **members: Any) -> list[GrantListEntry]:  # noqa: ANN401 - members
    """The grants on a key."""
    return kms.list_grants(grants.ListGrantsRequest(key_id=key_id, **members)).grants


def revoke(kms: Kms, key_id: str, grant_id: str, caller: Caller | None = None) -> None:
    """Revoke a grant."""
    kms.revoke_grant(grants.RevokeGrantRequest(key_id=key_id, grant_id=grant_id), caller)


def assert_denied(act: Callable[[], object]) -> None:
    """Assert that a call raises AccessDeniedException."""
    with pytest.raises(AccessDeniedException):
        act()


def test_a_grant_and_its_end(kms: Kms, callers: dict[str, Caller]) -> None:
    """A grant allows its grantee its operations at once, no other caller and operation, until it is revoked."""
    key = new_key(kms).key_id
    alice = callers["alice"]
    made = grant(kms, key, "Encrypt", "DescribeKey")
    assert seal(kms, key, caller=alice)
    assert kms.describe_key(keys.DescribeKeyRequest(key_id=key), alice)
    assert_denied(lambda: unseal(kms, seal(kms, key), alice))
    assert_denied(lambda: seal(kms, key, caller=callers["bob"]))
    assert_denied(lambda: seal(kms, new_key(kms).key_id, caller=alice))
    revoke(kms, key, made.grant_id)
    assert_denied(lambda: seal(kms, key, caller=alice))
    with pytest.raises(NotFoundException, match=made.grant_id):
        revoke(kms, key, made.grant_id)


def test_what_is_listed(kms: Kms, callers: dict[str, Caller]) -> None:
    """ListGrants returns all members of a grant, and filters by id and grantee."""
    assert callers
    key = new_key(kms)
    one = grant(kms, key.key_id, "Encrypt", "Decrypt", "Encrypt", constraints=PAIR, name="job", retiring_principal=BOB)
    two = grant(kms, key.key_id, grantee=BOB)
    (entry,) = listed(kms, key.key_id, grant_id=one.grant_id)
    assert (entry.key_id, entry.name, entry.grantee_principal, entry.retiring_principal) == (key.arn, "job", ALICE, BOB)
    assert (entry.operations, entry.constraints, entry.issuing_account) == (["Encrypt", "Decrypt"], PAIR, ROOT)
    (entry,) = listed(kms, key.key_id, grantee_principal=BOB)
    assert (entry.grant_id, entry.name, entry.retiring_principal, entry.constraints) == (two.grant_id, "", None, None)
    assert listed(kms, key.key_id, grant_id="0" * 64) == []
    assert listed(kms, key.key_id, grantee_service_principal="s3.eu.amazonaws.com") == []
    with pytest.raises(InvalidGrantIdException):
        listed(kms, key.key_id, grant_id="no id")


def test_pages(kms: Kms, callers: dict[str, Caller]) -> None:
    """Grants are listed page by page, of a key and of a retiring principal; a damaged marker is refused."""
    assert callers
    key = new_key(kms).key_id
    made = {grant(kms, key, retiring_principal=CAROL).grant_id for _ in range(3)}
    first = kms.list_grants(grants.ListGrantsRequest(key_id=key, limit=2))
    rest = kms.list_grants(grants.ListGrantsRequest(key_id=key, limit=2, marker=first.next_marker))
    assert (first.truncated, rest.truncated, rest.next_marker) == (True, False, None)
    assert [each.grant_id for each in [*first.grants, *rest.grants]] == sorted(made)
    retirable = kms.list_retirable_grants(grants.ListRetirableGrantsRequest(retiring_principal=CAROL, limit=2))
    more = grants.ListRetirableGrantsRequest(retiring_principal=CAROL, marker=retirable.next_marker)
    listed = [*retirable.grants, *kms.list_retirable_grants(more).grants]
    assert {each.grant_id for each in listed} == made
    there = kms.list_retirable_grants(
        grants.ListRetirableGrantsRequest(retiring_principal=CAROL), kms.caller(OTHER_REGION)
    )
    assert there.grants == []
    with pytest.raises(InvalidMarkerException):
        kms.list_grants(grants.ListGrantsRequest(key_id=key, marker=retirable.next_marker))


def test_a_name_makes_one(kms: Kms, callers: dict[str, Caller]) -> None:
    """With a Name the same grant is created once, with another token each time; without one, a new grant each time."""
    alice = callers["alice"]
    key = new_key(kms).key_id
    one, again = (grant(kms, key, "Encrypt", "Decrypt", name="job") for _ in range(2))
    assert one.grant_id == again.grant_id
    assert one.grant_token != again.grant_token
    for token in (one.grant_token, again.grant_token):
        assert seal(kms, key, caller=alice, grant_tokens=[token])
    assert grant(kms, key, "Encrypt", name="job").grant_id != one.grant_id
    assert grant(kms, key, "Encrypt", "Decrypt").grant_id != grant(kms, key, "Encrypt", "Decrypt").grant_id


def test_tokens(kms: Kms, callers: dict[str, Caller]) -> None:
    """A grant token is accepted in requests and helps no caller but the grantee; a wrong one is refused."""
    key, other = new_key(kms).key_id, new_key(kms).key_id
    made = grant(kms, key)
    token = made.grant_token
    assert seal(kms, key, caller=callers["alice"], grant_tokens=[token])
    assert_denied(lambda: seal(kms, key, caller=callers["bob"], grant_tokens=[token]))
    assert_denied(lambda: seal(kms, other, caller=callers["alice"], grant_tokens=[token]))
    wrong = [token[:-4] + "AAA=", token + "\n", token.replace(token[40], "-", 1), "x", "\u00e9"]
    for each in wrong:
        with pytest.raises(InvalidGrantTokenException):
            seal(kms, key, grant_tokens=[token, each])
    with pytest.raises(InvalidGrantTokenException):
        kms.encrypt(EncryptRequest(key_id=key, plaintext=b"p", grant_tokens=[token]), kms.caller(OTHER_REGION))
    revoke(kms, key, made.grant_id)
    with pytest.raises(InvalidGrantTokenException):
        seal(kms, key, grant_tokens=[token])


def test_constraints(kms: Kms, callers: dict[str, Caller]) -> None:
    """An encryption context constraint limits what the grantee may do with the key, not what he may read about it."""
    alice = callers["alice"]
    key = new_key(kms).key_id
    grant(kms, key, "Encrypt", "Decrypt", "DescribeKey", constraints=PAIR)
    context = {"a": "1", "b": "2"}
    sealed = seal(kms, key, caller=alice, encryption_context=context)
    assert unseal(kms, sealed, alice, encryption_context=context) == b"secret"
    assert_denied(lambda: unseal(kms, sealed, alice, encryption_context={"a": "2"}))
    assert_denied(lambda: seal(kms, key, caller=alice))
    assert kms.describe_key(keys.DescribeKeyRequest(key_id=key), alice)


def test_children(kms: Kms, callers: dict[str, Caller]) -> None:
    """A grantee with CreateGrant passes on only a part of the grant; the new grants outlive the parent."""
    alice, bob = callers["alice"], callers["bob"]
    key = new_key(kms).key_id
    parent = grant(kms, key, "Encrypt", "Decrypt", "CreateGrant", constraints=PAIR)
    for wrong in (
        {"operations": ["GenerateDataKey"], "constraints": PAIR},
        {"operations": ["Encrypt"]},
        {"operations": ["Encrypt"], "constraints": GrantConstraints(encryption_context_subset={"a": "2"})},
    ):
        assert_denied(lambda wrong=wrong: grant(kms, key, grantee=BOB, caller=alice, **wrong))  # type: ignore[misc]
    narrow = GrantConstraints(encryption_context_equals={"a": "1"})
    grant(kms, key, "Encrypt", grantee=BOB, caller=alice, constraints=narrow)
    assert seal(kms, key, caller=bob, encryption_context={"a": "1"})
    assert_denied(lambda: seal(kms, key, caller=bob, encryption_context={"a": "1", "b": "2"}))
    revoke(kms, key, parent.grant_id)
    assert seal(kms, key, caller=bob, encryption_context={"a": "1"})
    assert_denied(lambda: grant(kms, key, grantee=BOB, caller=alice, constraints=narrow))


def test_retiring(kms: Kms, callers: dict[str, Caller]) -> None:
    """Retiring is for the retiring principal, for a grantee who may, and for the root; by token, or by ARN and id."""
    key = new_key(kms)
    made = grant(kms, key.key_id, retiring_principal=CAROL)
    by_token = grants.RetireGrantRequest(grant_token=made.grant_token)
    by_id = grants.RetireGrantRequest(key_id=key.arn, grant_id=made.grant_id)
    for name in ("alice", "bob"):
        assert_denied(lambda name=name: kms.retire_grant(by_token, callers[name]))  # type: ignore[misc]
        assert_denied(lambda name=name: kms.retire_grant(by_id, callers[name]))  # type: ignore[misc]
    kms.retire_grant(by_id, callers["carol"])
    assert listed(kms, key.key_id) == []
    own = grant(kms, key.key_id, "Encrypt", "RetireGrant")
    kms.retire_grant(grants.RetireGrantRequest(grant_token=own.grant_token), callers["alice"])
    rest = grant(kms, key.key_id)
    kms.retire_grant(grants.RetireGrantRequest(grant_token=rest.grant_token))
    assert listed(kms, key.key_id) == []


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({}, ValidationException),
        ({"key_id": "k"}, ValidationException),
        ({"grant_token": "t", "key_id": "k", "grant_id": "g"}, ValidationException),
        ({"grant_token": "t"}, InvalidGrantTokenException),
        ({"key_id": "12345678-1234-4123-8123-123456789012", "grant_id": "0" * 64}, NotFoundException),
        (
            {
                "key_id": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/12345678-1234-4123-8123-123456789012",
                "grant_id": "0" * 64,
            },
            NotFoundException,
        ),
    ],
)
def test_what_cannot_be_retired(kms: Kms, members: dict[str, Any], error: type[HsmKmsError]) -> None:
    """A grant is named in one of two ways, and must be there."""
    with pytest.raises(error):
        kms.retire_grant(grants.RetireGrantRequest(**members))


def test_retiring_reveals_nothing(kms: Kms, callers: dict[str, Caller]) -> None:
    """A caller who may not retire a grant does not learn whether it, or its key, exists: not by id, nor by a token."""
    key, bob = new_key(kms), callers["bob"]
    made, ended = grant(kms, key.key_id), grant(kms, key.key_id)
    revoke(kms, key.key_id, ended.grant_id)
    unknown = key.arn.replace(key.key_id, "12345678-1234-4123-8123-123456789012")
    replica = key.arn.replace(key.key_id, new_key(kms, kms.caller(OTHER_REGION), multi_region=True).key_id)

    def refusal_of(**members: Any) -> str:  # noqa: ANN401 - members
        with pytest.raises(AccessDeniedException) as caught:
            kms.retire_grant(grants.RetireGrantRequest(**members), bob)
        return str(caught.value).rpartition("key/")[0] + str(caught.value)[-60:]

    sentences = {
        refusal_of(grant_token=made.grant_token),
        refusal_of(grant_token=ended.grant_token),
        refusal_of(key_id=key.arn, grant_id=made.grant_id),
        refusal_of(key_id=key.arn, grant_id=ended.grant_id),
        refusal_of(key_id=unknown, grant_id=made.grant_id),
        refusal_of(key_id=replica, grant_id=made.grant_id),
    }
    assert len(sentences) == 1
    for arn in (key.arn, unknown):
        with pytest.raises(InvalidGrantIdException):
            kms.retire_grant(grants.RetireGrantRequest(key_id=arn, grant_id="no id"), bob)
    kms.operator.identities.put_user_policy("bob", "p", RETIRE)
    for members, error in (
        ({"grant_token": ended.grant_token}, InvalidGrantTokenException),
        ({"key_id": key.arn, "grant_id": ended.grant_id}, NotFoundException),
        ({"key_id": unknown, "grant_id": made.grant_id}, NotFoundException),
    ):
        with pytest.raises(error):
            kms.retire_grant(grants.RetireGrantRequest(**members), bob)
    kms.operator.identities.delete_user_policy("bob", "p")


def test_an_ended_grant_token_reveals_nothing(kms: Kms, callers: dict[str, Caller]) -> None:
    """That the grant of a token has ended is revealed only to callers who may use the key that they name."""
    key = new_key(kms).key_id
    lasting, ended = grant(kms, key), grant(kms, key)
    revoke(kms, key, ended.grant_id)
    sentences = set()
    for token in (lasting.grant_token, ended.grant_token):
        with pytest.raises(AccessDeniedException) as caught:
            seal(kms, key, caller=callers["bob"], grant_tokens=[token])
        sentences.add(str(caught.value))
        with pytest.raises(AccessDeniedException) as caught:
            kms.describe_key(keys.DescribeKeyRequest(key_id="alias/not-there", grant_tokens=[token]), callers["bob"])
    assert len(sentences) == 1
    assert seal(kms, key, caller=callers["alice"], grant_tokens=[lasting.grant_token])
    with pytest.raises(InvalidGrantTokenException):
        seal(kms, key, caller=callers["alice"], grant_tokens=[lasting.grant_token, ended.grant_token])


def test_dry_runs(kms: Kms, callers: dict[str, Caller]) -> None:
    """A dry run of CreateGrant, RetireGrant and RevokeGrant checks everything and changes nothing."""
    key = new_key(kms).key_id
    made = grant(kms, key)
    for act in (
        lambda: grant(kms, key, dry_run=True),
        lambda: kms.retire_grant(grants.RetireGrantRequest(grant_token=made.grant_token, dry_run=True)),
        lambda: kms.revoke_grant(grants.RevokeGrantRequest(key_id=key, grant_id=made.grant_id, dry_run=True)),
    ):
        with pytest.raises(DryRunOperationException):
            act()
    assert_denied(lambda: grant(kms, key, dry_run=True, caller=callers["bob"]))
    assert [each.grant_id for each in listed(kms, key)] == [made.grant_id]


@pytest.mark.parametrize("principal", [user_arn(ACCOUNT, "nobody"), "alice", f"arn:aws:iam::{ACCOUNT}:role/x"])
@pytest.mark.parametrize("member", ["grantee_principal", "retiring_principal"])
def test_principals_exist(kms: Kms, member: str, principal: str) -> None:
    """Grantee and retiring principal are users that there are, or the account's root."""
    key = new_key(kms).key_id
    with pytest.raises(InvalidArnException, match="does not refer to a valid principal"):
        grant(kms, key, **{"grantee": ROOT, member: principal})
    assert listed(kms, key) == []


def test_states(kms: Kms, callers: dict[str, Caller]) -> None:
    """No grant is made on a key that is disabled, pending deletion or empty; lists and ends work in every state."""
    assert callers
    key = new_key(kms).key_id
    made = grant(kms, key)
    kms.disable_key(keys.DisableKeyRequest(key_id=key))
    with pytest.raises(DisabledException):
        grant(kms, key)
    schedule(kms, key)
    with pytest.raises(KMSInvalidStateException):
        grant(kms, key)
    assert [each.grant_id for each in listed(kms, key)] == [made.grant_id]
    revoke(kms, key, made.grant_id)
    with pytest.raises(KMSInvalidStateException):
        grant(kms, new_empty_key(kms))


def test_no_aliases(kms: Kms) -> None:
    """Operations on grants take a key's id or ARN, and no alias."""
    key = new_key(kms).key_id
    new_alias(kms, "alias/grants", key)
    with pytest.raises(NotFoundException, match="Invalid keyId"):
        grant(kms, "alias/grants", grantee=ROOT)
