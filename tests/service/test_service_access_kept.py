"""A cached Allow is used while nothing can change it, and decided again as soon as anything has."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from service_sites import ACCOUNT, REGION, new_alias, new_key, seal

from hsmkms.errors import AccessDeniedException, DisabledException, NotFoundException
from hsmkms.kms import Kms
from hsmkms.model import crypto, grants, policies
from hsmkms.model.aliases import DeleteAliasRequest, UpdateAliasRequest
from hsmkms.model.caller import Caller
from hsmkms.model.ids import root_arn
from hsmkms.model.keys import DisableKeyRequest
from hsmkms.rules.iam import access as rules
from hsmkms.service import pipeline
from hsmkms.service.runtime import authoriser as module

ROOT = {"AWS": root_arn(ACCOUNT)}
ALLOW = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
DENY = ALLOW | {"Effect": "Deny"}
DELEGATE = ALLOW | {"Principal": ROOT}
EXCEPT = {"Effect": "Allow", "NotAction": "kms:Encrypt", "Resource": "*", "Principal": ROOT}


def document(*statements: dict[str, Any]) -> str:
    """A policy's text."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@pytest.fixture(scope="module")
def dora(kms: Kms) -> Caller:
    """A user in a group without policies."""
    kms.operator.credentials.create_user("dora")
    kms.operator.identities.create_group("kept")
    kms.operator.identities.add_user_to_group("kept", "dora")
    return kms.caller(REGION, "dora")


@pytest.fixture
def may(kms: Kms, dora: Caller) -> Iterator[Caller]:
    """The user with a policy that allows everything; afterwards neither she nor her group has any."""
    operator = kms.operator.identities
    operator.put_user_policy("dora", "all", document(ALLOW))
    yield dora
    for name in operator.user_policies("dora"):
        operator.delete_user_policy("dora", name)
    for name in operator.group_policies("kept"):
        operator.delete_group_policy("kept", name)


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The actions on which was decided."""
    actions: list[str] = []

    def decide(question: Any, *more: Any) -> Any:  # noqa: ANN401 - as the rule has it
        actions.append(question.action)
        return real(question, *more)

    real = rules.decide
    monkeypatch.setattr(module.access, "decide", decide)
    return actions


def assert_denied(act: Callable[[], object]) -> None:
    """Assert that a call raises AccessDeniedException."""
    with pytest.raises(AccessDeniedException):
        act()


def put_key_policy(kms: Kms, key_id: str, *statements: dict[str, Any]) -> None:
    """Replace the policy of a key."""
    kms.put_key_policy(policies.PutKeyPolicyRequest(key_id=key_id, policy=document(*statements)))


def test_decided_once(kms: Kms, may: Caller, decided: list[str]) -> None:
    """One caller's requests for one key are decided once for each action; another caller, or key, by themselves."""
    one, two = new_key(kms).key_id, new_key(kms).key_id
    decided.clear()
    for _ in range(3):
        seal(kms, one, caller=may)
    assert decided == ["kms:Encrypt"]
    seal(kms, one)
    seal(kms, two, caller=may)
    seal(kms, one)
    assert decided == ["kms:Encrypt"] * 3


Change = Callable[[Kms, str], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda kms, _: kms.operator.identities.delete_user_policy("dora", "all"),
        lambda kms, _: kms.operator.identities.put_user_policy("dora", "no", document(DENY)),
        lambda kms, _: kms.operator.identities.put_group_policy("kept", "no", document(DENY)),
        lambda kms, key_id: put_key_policy(kms, key_id, DELEGATE, DENY | {"Principal": "*", "Action": "kms:Encrypt"}),
        lambda kms, key_id: put_key_policy(kms, key_id, EXCEPT),
    ],
    ids=["policy gone", "own deny", "group's deny", "key's deny", "key delegates no more"],
)
def test_any_change_ends_it(kms: Kms, may: Caller, change: Change) -> None:
    """What was allowed and kept is refused at the next call after a policy of user, group or key has changed."""
    key_id = new_key(kms).key_id
    for _ in range(2):
        seal(kms, key_id, caller=may)
    change(kms, key_id)
    assert_denied(lambda: seal(kms, key_id, caller=may))


def test_what_asks_more_is_decided_every_time(kms: Kms, may: Caller, decided: list[str]) -> None:
    """A condition, or a resource with a variable, in a statement on the action has every request decided by itself."""
    key = new_key(kms)
    only_a = {"StringEquals": {"kms:EncryptionContext:a": "b"}}
    named = ALLOW | {"Resource": [key.arn, f"{key.arn}/${{aws:SourceIp}}"]}
    for conditional in (ALLOW | {"Condition": only_a}, named):
        kms.operator.identities.put_user_policy("dora", "all", document(conditional))
        decided.clear()
        for _ in range(3):
            seal(kms, key.key_id, caller=may, encryption_context={"a": "b"})
        assert decided == ["kms:Encrypt"] * 3
    for _ in range(2):
        assert_denied(lambda: seal(kms, new_key(kms).key_id, caller=may))
    kms.operator.identities.put_user_policy("dora", "all", document(ALLOW, DENY | {"Condition": only_a}))
    seal(kms, key.key_id, caller=may)
    assert_denied(lambda: seal(kms, key.key_id, caller=may, encryption_context={"a": "b"}))
    put_key_policy(kms, key.key_id, DELEGATE, DENY | {"Principal": "*", "Condition": only_a, "Action": "kms:Encrypt"})
    seal(kms, key.key_id)
    assert_denied(lambda: seal(kms, key.key_id, encryption_context={"a": "b"}))


def test_resources_are_decided_once(kms: Kms, may: Caller, decided: list[str]) -> None:
    """A statement on some resources decides once about each key: what it allows and what it denies."""
    one, two, three = (new_key(kms) for _ in range(3))
    allowing, denying = ALLOW | {"Resource": [one.arn, two.arn]}, DENY | {"Resource": two.arn}
    kms.operator.identities.put_user_policy("dora", "all", document(allowing, denying))
    decided.clear()
    for _ in range(3):
        seal(kms, one.key_id, caller=may)
    assert decided == ["kms:Encrypt"]
    for key in (two, three):
        assert_denied(lambda key=key: seal(kms, key.key_id, caller=may))  # type: ignore[misc]  # bound now
    seal(kms, one.key_id, caller=may)


def test_a_condition_of_time_is_decided_every_time(kms: Kms, may: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was allowed until an instant is refused after it, though nothing has changed."""
    key = new_key(kms)
    now = kms._core.clock()
    until = {"DateLessThan": {"aws:CurrentTime": (now + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")}}
    kms.operator.identities.put_user_policy("dora", "all", document(ALLOW | {"Condition": until}))
    for _ in range(2):
        seal(kms, key.key_id, caller=may)
    monkeypatch.setattr(kms._core, "clock", lambda: now + timedelta(hours=2))
    assert_denied(lambda: seal(kms, key.key_id, caller=may))


def test_a_state_ends_what_conditions_allow(kms: Kms, may: Caller) -> None:
    """A disabled key is refused, whether conditions decide or not."""
    key = new_key(kms)
    condition = {"StringEquals": {"kms:EncryptionContext:a": "b"}}
    kms.operator.identities.put_user_policy("dora", "all", document(ALLOW | {"Condition": condition}))
    for _ in range(2):
        seal(kms, key.key_id, caller=may, encryption_context={"a": "b"})
    kms.disable_key(DisableKeyRequest(key_id=key.key_id))
    with pytest.raises(DisabledException):
        seal(kms, key.key_id, caller=may, encryption_context={"a": "b"})


def test_a_grant_is_asked_every_time(kms: Kms, dora: Caller) -> None:
    """What a grant allows for one encryption context it does not allow for another one, and not once it is revoked."""
    key_id = new_key(kms).key_id
    wanted = grants.GrantConstraints(encryption_context_equals={"a": "b"})
    request = grants.CreateGrantRequest(
        key_id=key_id, grantee_principal=dora.principal, operations=["Encrypt"], constraints=wanted
    )
    grant_id = kms.create_grant(request).grant_id
    for _ in range(2):
        seal(kms, key_id, caller=dora, encryption_context={"a": "b"})
        assert_denied(lambda: seal(kms, key_id, caller=dora))
    kms.revoke_grant(grants.RevokeGrantRequest(key_id=key_id, grant_id=grant_id))
    assert_denied(lambda: seal(kms, key_id, caller=dora, encryption_context={"a": "b"}))


def test_a_decision_from_before_a_change_is_not_kept(kms: Kms, may: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided by a policy that changed meanwhile holds for that request alone."""
    key_id = new_key(kms).key_id

    def overtaken(question: Any, *more: Any) -> Any:  # noqa: ANN401 - as the rule has it
        decision = real(question, *more)
        monkeypatch.setattr(module.access, "decide", real)
        kms.operator.identities.put_user_policy("dora", "no", document(DENY))
        kms._core.cache.look()  # what a thread with another request does at this moment
        return decision

    real = rules.decide
    monkeypatch.setattr(module.access, "decide", overtaken)
    assert seal(kms, key_id, caller=may)
    assert_denied(lambda: seal(kms, key_id, caller=may))


def test_an_alias_leads_to_its_new_key(kms: Kms, may: Caller) -> None:
    """An alias under which a key was used leads to another key at the call after it was moved."""
    one, two = new_key(kms), new_key(kms)
    new_alias(kms, "alias/kept", one.key_id)
    request = crypto.EncryptRequest(key_id="alias/kept", plaintext=b"secret")
    for key in (one, two, one):
        kms.update_alias(UpdateAliasRequest(alias_name="alias/kept", target_key_id=key.key_id))
        assert [kms.encrypt(request, may).key_id for _ in range(2)] == [key.arn] * 2
    kms.delete_alias(DeleteAliasRequest(alias_name="alias/kept"))
    with pytest.raises(NotFoundException):
        kms.encrypt(request, may)


def test_many_are_forgotten(kms: Kms, may: Caller, decided: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an end to what is kept."""
    monkeypatch.setattr(pipeline, "MAX_ADMISSIONS", 1)
    key_id = new_key(kms).key_id
    decided.clear()
    for caller in (None, may, None, may):
        seal(kms, key_id, caller=caller)
    assert decided == ["kms:Encrypt"] * 4
