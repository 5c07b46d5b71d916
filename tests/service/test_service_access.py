"""Permissions through the service: who may use which key, what a refusal reveals, and that changes act at once."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle import new_empty_key, request_to_import
from service_sites import ACCOUNT, OTHER_REGION, REGION, new_alias, new_key, seal, unseal

import hsmkms
from hsmkms.errors import (
    AccessDeniedException,
    HsmKmsError,
    MalformedPolicyDocumentException,
    NotFoundException,
    TagException,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model import aliases, crypto, deletion, grants, importing, keys, policies, rotation, tags
from hsmkms.model.caller import Caller
from hsmkms.model.ids import key_arn, root_arn, user_arn
from hsmkms.model.shapes import Tag
from hsmkms.rules.iam.policies import default_policy
from hsmkms.service.keys import creation
from hsmkms.store import identities
from hsmkms.store import keys as table

ROOT = root_arn(ACCOUNT)
UNKNOWN = "12345678-1234-4123-8123-123456789012"
READY_MADE = Path(hsmkms.__file__).parents[1] / "conf" / "policies"


def document(*statements: dict[str, Any]) -> str:
    """A policy's text; statements may leave out Resource."""
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Resource": "*"} | statement for statement in statements]}
    )


def allow(action: object, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A statement that allows."""
    return {"Effect": "Allow", "Action": action} | more


def for_whom(principal: str, action: object = "kms:*", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A statement of a key policy that allows."""
    return allow(action, Principal={"AWS": principal}, **more)


@pytest.fixture(scope="module")
def people(kms: Kms) -> Kms:
    """The users alice, bob and carol."""
    for name in ("alice", "bob", "carol"):
        kms.operator.credentials.create_user(name)
    return kms


@pytest.fixture
def alice(people: Kms) -> Iterator[Caller]:
    """A user without any permission; whatever she is given in a test is taken away after it."""
    yield people.caller(REGION, "alice")
    for name in people.operator.identities.user_policies("alice"):
        people.operator.identities.delete_user_policy("alice", name)


def give(kms: Kms, *statements: dict[str, Any], user: str = "alice", name: str = "p") -> None:
    """Give a user a policy."""
    kms.operator.identities.put_user_policy(user, name, document(*statements))


def assert_denied(act: Callable[[], object]) -> str:
    """Assert that a call raises AccessDeniedException; return its message."""
    with pytest.raises(AccessDeniedException) as caught:
        act()
    return str(caught.value)


# -- users --------------------------------------------------------------------------------------------------------


def test_a_new_user_may_do_nothing(kms: Kms, alice: Caller) -> None:
    """A user without policies is refused every operation, about keys, aliases and the account."""
    key = new_key(kms).key_id
    sealed = seal(kms, key)
    for act in (
        lambda: kms.list_keys(keys.ListKeysRequest(), alice),
        lambda: kms.create_key(keys.CreateKeyRequest(), alice),
        lambda: kms.generate_random(crypto.GenerateRandomRequest(number_of_bytes=8), alice),
        lambda: seal(kms, key, caller=alice),
        lambda: unseal(kms, sealed, alice),
        lambda: new_alias(kms, "alias/of-alice", key, alice),
        lambda: kms.describe_key(keys.DescribeKeyRequest(key_id=key), alice),
    ):
        assert "no identity-based policy allows" in assert_denied(act)


def test_a_policy_acts_at_once(kms: Kms, alice: Caller) -> None:
    """What a policy gives or takes holds at the next call."""
    key = new_key(kms)
    give(kms, allow("kms:Encrypt", Resource=key.arn))
    assert seal(kms, key.key_id, caller=alice)
    assert_denied(lambda: seal(kms, new_key(kms).key_id, caller=alice))
    give(kms, allow("kms:Encrypt"), {"Effect": "Deny", "Action": "kms:*", "Resource": key.arn})
    assert "explicit deny in an identity-based policy" in assert_denied(lambda: seal(kms, key.key_id, caller=alice))
    kms.operator.identities.delete_user_policy("alice", "p")
    assert_denied(lambda: seal(kms, key.key_id, caller=alice))


def test_groups_and_tags(kms: Kms, alice: Caller) -> None:
    """A group's policy is for its members, and a user's tags are the values of aws:PrincipalTag."""
    operator = kms.operator.identities
    key = new_key(kms, tags=[Tag(tag_key="team", tag_value="red")]).key_id
    operator.create_group("red")
    same = {"StringEquals": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}}
    operator.put_group_policy("red", "use", document(allow("kms:Encrypt", Condition=same)))
    operator.add_user_to_group("red", "alice")
    assert_denied(lambda: seal(kms, key, caller=alice))
    operator.tag_user("alice", [("team", "red")])
    assert seal(kms, key, caller=alice)
    kms.tag_resource(tags.TagResourceRequest(key_id=key, tags=[Tag(tag_key="team", tag_value="blue")]))
    assert_denied(lambda: seal(kms, key, caller=alice))
    operator.tag_user("alice", [("team", "blue")])
    assert seal(kms, key, caller=alice)
    assert operator.user("alice").groups == ["red"]
    operator.remove_user_from_group("red", "alice")
    assert_denied(lambda: seal(kms, key, caller=alice))
    operator.untag_user("alice", ["team"])
    operator.delete_group("red")


def test_aliases_decide(kms: Kms, alice: Caller) -> None:
    """kms:ResourceAliases follows the aliases of the key, and kms:RequestAlias the name in the request."""
    key = new_key(kms).key_id
    by_alias = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/for-alice"}}
    by_name = {"StringEquals": {"kms:RequestAlias": "alias/for-alice"}}
    give(kms, allow("kms:Encrypt", Condition=by_alias), allow("kms:DescribeKey", Condition=by_name))
    assert_denied(lambda: seal(kms, key, caller=alice))
    new_alias(kms, "alias/for-alice", key)
    assert seal(kms, key, caller=alice)
    assert kms.describe_key(keys.DescribeKeyRequest(key_id="alias/for-alice"), alice)
    assert_denied(lambda: kms.describe_key(keys.DescribeKeyRequest(key_id=key), alice))
    kms.delete_alias(aliases.DeleteAliasRequest(alias_name="alias/for-alice"))
    assert_denied(lambda: seal(kms, key, caller=alice))


def test_alias_operations_want_both(kms: Kms, alice: Caller) -> None:
    """Creating, moving and deleting an alias want the alias in a user's policy, and each key concerned."""
    one, two = new_key(kms), new_key(kms)
    names = "arn:aws:kms:*:*:alias/own-*"
    give(kms, allow(["kms:*Alias"], Resource=[names, one.arn]))
    new_alias(kms, "alias/own-1", one.key_id, alice)
    assert_denied(lambda: new_alias(kms, "alias/other", one.key_id, alice))
    assert_denied(lambda: new_alias(kms, "alias/own-2", two.key_id, alice))
    move = aliases.UpdateAliasRequest(alias_name="alias/own-1", target_key_id=two.key_id)
    assert_denied(lambda: kms.update_alias(move, alice))
    give(kms, allow(["kms:*Alias"], Resource=[names, two.arn]))
    assert_denied(lambda: kms.update_alias(move, alice))
    give(kms, allow(["kms:*Alias"], Resource=[names, one.arn, two.arn]))
    kms.update_alias(move, alice)
    give(kms, allow(["kms:*Alias"], Resource=[names, one.arn]))
    assert_denied(lambda: kms.delete_alias(aliases.DeleteAliasRequest(alias_name="alias/own-1"), alice))


def test_both_sides_of_re_encrypt(kms: Kms, alice: Caller) -> None:
    """ReEncrypt wants ReEncryptFrom on the source and ReEncryptTo on the destination."""
    source, target = new_key(kms), new_key(kms)
    sealed = seal(kms, source.key_id)
    request = crypto.ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=target.key_id)
    to, from_ = allow("kms:ReEncryptTo", Resource=target.arn), allow("kms:ReEncryptFrom", Resource=source.arn)
    for half, missing in ((to, "kms:ReEncryptFrom"), (from_, "kms:ReEncryptTo")):
        give(kms, half)
        assert f"to perform: {missing} on resource" in assert_denied(lambda: kms.re_encrypt(request, alice))
    give(kms, to, from_)
    assert kms.re_encrypt(request, alice).key_id == target.arn
    same = {"Bool": {"kms:ReEncryptOnSameKey": "true"}}
    give(kms, allow("kms:ReEncrypt*", Condition=same))
    assert_denied(lambda: kms.re_encrypt(request, alice))
    again = crypto.ReEncryptRequest(ciphertext_blob=sealed, destination_key_id=source.key_id)
    assert kms.re_encrypt(again, alice).key_id == source.arn


@pytest.mark.parametrize(("spec", "usage"), [("SYMMETRIC_DEFAULT", None), ("RSA_2048", "ENCRYPT_DECRYPT")])
def test_re_encrypt_on_the_same_key(kms: Kms, alice: Caller, spec: str, usage: str | None) -> None:
    """kms:ReEncryptOnSameKey says whether both sides are one key, of RSA as well, however each side names it."""
    algorithm = "SYMMETRIC_DEFAULT" if usage is None else "RSAES_OAEP_SHA_1"
    one, two = (new_key(kms, key_spec=spec, key_usage=usage) for _ in range(2))
    name = f"alias/same-{spec.lower()}"
    new_alias(kms, name, one.key_id)
    sealed = seal(kms, one.key_id, encryption_algorithm=algorithm)

    def re_encrypt(source: str | None, target: str) -> None:
        kms.re_encrypt(
            crypto.ReEncryptRequest(
                ciphertext_blob=sealed,
                source_key_id=source,
                source_encryption_algorithm=algorithm,
                destination_key_id=target,
                destination_encryption_algorithm=algorithm,
            ),
            alice,
        )

    sources = [one.key_id, one.arn, name, *([None] if usage is None else [])]
    for wanted, allowed, refused in (("true", one, two), ("false", two, one)):
        condition = {"Bool": {"kms:ReEncryptOnSameKey": wanted}}
        against = {
            "Effect": "Deny",
            "Action": "kms:ReEncrypt*",
            "Condition": {"Bool": {"kms:ReEncryptOnSameKey": {"true": "false", "false": "true"}[wanted]}},
        }
        for statements in ([allow("kms:ReEncrypt*", Condition=condition)], [allow("kms:ReEncrypt*"), against]):
            give(kms, *statements)
            for source in sources:
                re_encrypt(source, allowed.arn)
                assert "kms:ReEncryptTo" in assert_denied(lambda s=source, r=refused: re_encrypt(s, r.arn))  # type: ignore[misc]
    simulated = kms.operator.simulate(
        "alice", "kms:ReEncryptFrom", key_id=one.key_id, members={"SourceKeyId": one.key_id, "DestinationKeyId": name}
    )
    assert simulated.decision == "explicitDeny"


def test_what_a_replica_is_to_be(kms: Kms, alice: Caller) -> None:
    """kms:CreateKey and kms:TagResource are asked about the replica that ReplicateKey makes: its kind, its region."""
    primary = new_key(kms, multi_region=True)
    there = key_arn(ACCOUNT, OTHER_REGION, primary.key_id)
    request = keys.ReplicateKeyRequest(
        key_id=primary.key_id, replica_region=OTHER_REGION, tags=[Tag(tag_key="a", tag_value="b")]
    )
    for action, name, value in (
        ("kms:CreateKey", "kms:MultiRegionKeyType", "REPLICA"),
        ("kms:CreateKey", "kms:KeySpec", "SYMMETRIC_DEFAULT"),
        ("kms:CreateKey", "kms:KeyUsage", "ENCRYPT_DECRYPT"),
        ("kms:CreateKey", "kms:KeyOrigin", "AWS_KMS"),
        ("kms:CreateKey", "kms:MultiRegion", "true"),
        ("kms:CreateKey", "aws:RequestedRegion", OTHER_REGION),
        ("kms:CreateKey", "aws:RequestTag/a", "b"),
        ("kms:TagResource", "kms:MultiRegionKeyType", "REPLICA"),
        ("kms:TagResource", "aws:RequestedRegion", OTHER_REGION),
    ):
        against = {"Effect": "Deny", "Action": action, "Condition": {"StringEquals": {name: value}}}
        give(kms, allow("kms:*"), against)
        assert f"to perform: {action} on resource" in assert_denied(lambda: kms.replicate_key(request, alice))
    give(kms, allow("kms:*"), {"Effect": "Deny", "Action": "kms:TagResource", "Resource": there})
    assert "to perform: kms:TagResource on resource" in assert_denied(lambda: kms.replicate_key(request, alice))
    made = {"StringEquals": {"kms:MultiRegionKeyType": "REPLICA", "aws:RequestedRegion": OTHER_REGION}}
    give(
        kms,
        allow("kms:ReplicateKey", Resource=primary.arn),
        allow("kms:CreateKey", Condition=made),
        allow("kms:TagResource", Resource=there, Condition=made),
    )
    assert kms.replicate_key(request, alice).replica_key_metadata.arn == there


def test_tags_of_a_new_key(kms: Kms, alice: Caller) -> None:
    """CreateKey with tags wants kms:TagResource on keys of the account."""
    request = keys.CreateKeyRequest(tags=[Tag(tag_key="a", tag_value="b")])
    give(kms, allow("kms:CreateKey"))
    assert "kms:TagResource" in assert_denied(lambda: kms.create_key(request, alice))
    give(kms, allow("kms:CreateKey"), allow("kms:TagResource", Resource=key_arn(ACCOUNT, REGION, "*")))
    assert kms.create_key(request, alice)


@pytest.mark.parametrize("spelling", ["user/dave", "user\\/dave", "user\\u002fdave", "us\\u0065r/d\\u0061ve"])
def test_a_user_who_is_gone(kms: Kms, people: Kms, spelling: str) -> None:
    """No caller can act as an unknown user; a name in a key policy or grant does not pass to a new user of it."""
    operator = people.operator
    user_id = operator.credentials.create_user("dave").user_id
    dave = kms.caller(REGION, "dave")
    text = document(for_whom(ROOT), for_whom(dave.principal)).replace("user/dave", spelling)
    key = new_key(kms, policy=text).key_id
    granted = new_key(kms).key_id
    grant = grants.CreateGrantRequest(key_id=granted, grantee_principal=dave.principal, operations=["Encrypt"])
    grant_id = kms.create_grant(grant).grant_id
    assert seal(kms, key, caller=dave)
    assert seal(kms, granted, caller=dave)
    operator.credentials.delete_user("dave")
    with pytest.raises(NotFoundException, match="dave"):
        kms.caller(REGION, "dave")
    assert_denied(lambda: seal(kms, key, caller=dave))
    operator.credentials.create_user("dave")
    assert_denied(lambda: seal(kms, key, caller=dave))
    assert_denied(lambda: seal(kms, granted, caller=dave))
    text = kms.get_key_policy(policies.GetKeyPolicyRequest(key_id=key)).policy
    assert json.loads(text)["Statement"][1]["Principal"] == {"AWS": [user_id]}
    (entry,) = kms.list_grants(grants.ListGrantsRequest(key_id=granted, grant_id=grant_id)).grants
    assert entry.grantee_principal == user_id
    operator.credentials.delete_user("dave")


def test_what_was_left_of_a_user(kms: Kms, people: Kms) -> None:
    """A name that an earlier version left in the policy of a key when it deleted a user is not the new user's."""
    key = new_key(kms).key_id
    text = document(for_whom(ROOT), for_whom(user_arn(ACCOUNT, "fred"))).replace("/fred", "\\/fred")
    with kms._core.store.atomic() as tx:
        table.rewrite_policy(tx, key, REGION, text)
    people.operator.credentials.create_user("fred")
    assert_denied(lambda: seal(kms, key, caller=kms.caller(REGION, "fred")))
    put(kms, key, document(for_whom(ROOT), for_whom(user_arn(ACCOUNT, "fred"))))
    assert seal(kms, key, caller=kms.caller(REGION, "fred"))
    people.operator.credentials.delete_user("fred")


def test_a_user_who_goes_while_a_key_is_made(kms: Kms, people: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key's policy names no user who was deleted while the key was being made, before its intent or after it."""
    users = people.operator.credentials
    dave = user_arn(ACCOUNT, "dave")
    policy = document(for_whom(ROOT), for_whom(dave))
    steps: list[str] = []

    def delete_dave(step: str) -> None:
        if not steps:
            steps.append(step)
            users.delete_user("dave")

    def made(origin: str) -> str:
        steps.clear()
        users.create_user("dave")
        return new_key(kms, policy=policy, origin=origin).key_id

    def after_the_first_check(real: Callable[..., object]) -> Callable[..., object]:
        def make(*args: object, **more: object) -> object:
            users.delete_user("dave")
            return real(*args, **more)

        return make

    for origin, name in (("AWS_KMS", "make"), ("EXTERNAL", "make_empty")):
        with monkeypatch.context() as patch:
            patch.setattr(creation, name, after_the_first_check(getattr(creation, name)))
            with pytest.raises(MalformedPolicyDocumentException, match="invalid principals"):
                made(origin)
    with monkeypatch.context() as patch:
        patch.setattr(kms._core, "reached", delete_dave)
        key = made("AWS_KMS")
    assert steps == ["create-key 1: intent"]
    assert "AIDA" in policy_of(kms, key)
    users.create_user("dave")
    assert_denied(lambda: seal(kms, key, caller=kms.caller(REGION, "dave")))
    users.delete_user("dave")


def test_ids_of_users(kms: Kms, alice: Caller) -> None:
    """aws:userid is a user's unique id, which is listed, can be named as a principal, and ends with him."""
    users = kms.operator.credentials
    listed = {user.user_name: user.user_id for user in users.list_users()}
    assert len(set(listed.values())) == len(listed)
    assert kms.operator.identities.user("alice").user_id == listed["alice"]
    key = new_key(kms).key_id
    give(kms, allow("kms:Encrypt", Condition={"StringEquals": {"aws:userid": listed["alice"]}}))
    assert seal(kms, key, caller=alice)
    give(kms, allow("kms:Encrypt", Condition={"StringEquals": {"aws:userid": "alice"}}))
    assert_denied(lambda: seal(kms, key, caller=alice))

    first = users.create_user("dave").user_id
    put(kms, key, document(for_whom(ROOT), for_whom(first)))
    assert seal(kms, key, caller=kms.caller(REGION, "dave"))
    users.delete_user("dave")
    assert users.create_user("dave").user_id != first
    assert_denied(lambda: seal(kms, key, caller=kms.caller(REGION, "dave")))
    with pytest.raises(MalformedPolicyDocumentException, match="any more"):
        put(kms, key, policy_of(kms, key))
    users.delete_user("dave")


# -- what a refusal reveals ---------------------------------------------------------------------------------------


def test_an_outsider_learns_nothing(kms: Kms, alice: Caller) -> None:
    """A refusal about a key that is there reads like one about a key that is not, by id, ARN and alias."""
    locked = new_key(
        kms, policy=document(for_whom(ROOT), {"Effect": "Deny", **for_whom(alice.principal) | {"Effect": "Deny"}})
    )
    plain = new_key(kms, policy=document(for_whom(user_arn(ACCOUNT, "bob"))), bypass_policy_lockout_safety_check=True)
    new_alias(kms, "alias/there", new_key(kms).key_id)

    def refusal_of(name: str) -> str:
        return assert_denied(lambda: seal(kms, name, caller=alice))

    for there in (locked.key_id, plain.key_id):
        assert refusal_of(there).replace(there, "KEY") == refusal_of(UNKNOWN).replace(UNKNOWN, "KEY")
        arn = key_arn(ACCOUNT, REGION, there)
        assert refusal_of(arn) == refusal_of(there)
    assert refusal_of("alias/there").replace("there", "x") == refusal_of("alias/not-there").replace("not-there", "x")


def test_callers_with_permission_get_the_cause(kms: Kms, alice: Caller) -> None:
    """A user whose own policies allow it learns that a key does not exist, or what the key's policy says."""
    give(kms, allow("kms:Encrypt"))
    with pytest.raises(NotFoundException, match="does not exist"):
        seal(kms, UNKNOWN, caller=alice)
    with pytest.raises(NotFoundException, match="is not found"):
        seal(kms, "alias/not-there", caller=alice)
    bobs = new_key(kms, policy=document(for_whom(ROOT, "kms:PutKeyPolicy"))).key_id
    assert "no resource-based policy allows" in assert_denied(lambda: seal(kms, bobs, caller=alice))
    against = {**for_whom(alice.principal), "Effect": "Deny"}
    locked = new_key(kms, policy=document(for_whom(ROOT), against)).key_id
    assert "explicit deny in a resource-based policy" in assert_denied(lambda: seal(kms, locked, caller=alice))


def test_state_comes_after_permission(kms: Kms, alice: Caller) -> None:
    """A caller without permission for a key does not learn its state."""
    key = new_key(kms).key_id
    kms.disable_key(keys.DisableKeyRequest(key_id=key))
    assert_denied(lambda: seal(kms, key, caller=alice))


@pytest.mark.parametrize(
    "act",
    [
        lambda kms, key, who: seal(kms, key, caller=who, encryption_context={"a": "x" * 8192}),
        lambda kms, key, who: unseal(kms, b"x", who, key_id=key, encryption_context={"x" * 8192: ""}),
        lambda kms, key, who: kms.re_encrypt(
            crypto.ReEncryptRequest(
                ciphertext_blob=b"x",
                destination_key_id=key,
                destination_encryption_context={f"{number:04}": "" for number in range(700)},
            ),
            who,
        ),
        lambda kms, key, who: kms.create_grant(
            grants.CreateGrantRequest(
                key_id=key,
                grantee_principal=ROOT,
                operations=["Decrypt"],
                constraints=grants.GrantConstraints(encryption_context_subset={"a": "x" * 8192}),
            ),
            who,
        ),
    ],
    ids=["Encrypt", "Decrypt", "ReEncrypt", "CreateGrant"],
)
def test_no_policy_is_asked_about_a_context_that_is_too_long(
    kms: Kms, alice: Caller, act: Callable[[Kms, str, Caller], object]
) -> None:
    """A context that no operation takes is refused first, so that its length is no work for patterns of policies."""
    with pytest.raises(ValidationException, match="8192"):
        act(kms, new_key(kms).key_id, alice)


def test_no_policy_is_asked_about_more_tags_than_there_can_be(kms: Kms, alice: Caller) -> None:
    """So are more tags than a key can have, whether they are added or removed."""
    key, names = new_key(kms).key_id, [f"t{number}" for number in range(51)]
    both = [Tag(tag_key=name, tag_value="") for name in names]
    with pytest.raises(TagException, match="Too many tags"):
        kms.tag_resource(tags.TagResourceRequest(key_id=key, tags=both), alice)
    with pytest.raises(TagException, match="Too many tags"):
        kms.untag_resource(tags.UntagResourceRequest(key_id=key, tag_keys=names), alice)
    kms.untag_resource(tags.UntagResourceRequest(key_id=key, tag_keys=names[:50]))


def test_a_name_for_a_secret_key(kms: Kms, alice: Caller) -> None:
    """A caller who may move, delete or use an alias does not learn from a refusal which key it names."""
    hidden, own_key = new_key(kms).key_id, new_key(kms)
    new_alias(kms, "alias/of-a-secret", hidden)
    give(kms, allow("kms:*", Resource=["arn:aws:kms:*:*:alias/*", own_key.arn]))
    move = aliases.UpdateAliasRequest(alias_name="alias/of-a-secret", target_key_id=own_key.key_id)
    for act in (
        lambda: kms.update_alias(move, alice),
        lambda: kms.delete_alias(aliases.DeleteAliasRequest(alias_name="alias/of-a-secret"), alice),
        lambda: kms.describe_key(keys.DescribeKeyRequest(key_id="alias/of-a-secret"), alice),
    ):
        refusal = assert_denied(act)
        assert hidden not in refusal
        assert "alias/of-a-secret because" in refusal
    unknown = assert_denied(lambda: kms.describe_key(keys.DescribeKeyRequest(key_id="alias/of-nothing"), alice))
    assert unknown == refusal.replace("of-a-secret", "of-nothing")


def test_the_region_of_a_replica(kms: Kms, alice: Caller) -> None:
    """Whether a key has a replica in a region is revealed only to callers who may use one there."""
    primary = new_key(kms, multi_region=True)
    request = keys.UpdatePrimaryRegionRequest(key_id=primary.key_id, primary_region=OTHER_REGION)
    give(kms, allow("kms:UpdatePrimaryRegion", Resource=primary.arn))
    missing = assert_denied(lambda: kms.update_primary_region(request, alice))
    kms.replicate_key(keys.ReplicateKeyRequest(key_id=primary.key_id, replica_region=OTHER_REGION))
    assert assert_denied(lambda: kms.update_primary_region(request, alice)) == missing
    elsewhere = kms.caller(OTHER_REGION, "alice")
    alone = new_key(kms, multi_region=True).key_id
    there, not_there = (
        assert_denied(lambda key=key: seal(kms, key, caller=elsewhere))  # type: ignore[misc]
        for key in (primary.key_id, alone)
    )
    assert there.replace(primary.key_id, "KEY") == not_there.replace(alone, "KEY")


# -- key policies -------------------------------------------------------------------------------------------------


def put(kms: Kms, key_id: str, text: str, caller: Caller | None = None, **members: Any) -> None:  # noqa: ANN401
    """Put a key policy."""
    kms.put_key_policy(policies.PutKeyPolicyRequest(key_id=key_id, policy=text, **members), caller)


def policy_of(kms: Kms, key_id: str, caller: Caller | None = None) -> str:
    """The policy of a key."""
    return kms.get_key_policy(policies.GetKeyPolicyRequest(key_id=key_id), caller).policy


def test_key_policy(kms: Kms, alice: Caller) -> None:
    """A key policy is kept to the letter, names users directly, and acts at the next call."""
    key = new_key(kms).key_id
    assert policy_of(kms, key) == default_policy(ACCOUNT)
    text = document(for_whom(ROOT), for_whom(alice.principal, ["kms:Encrypt", "kms:GetKeyPolicy"]))
    put(kms, key, text)
    assert seal(kms, key, caller=alice)
    assert policy_of(kms, key, alice) == text
    assert_denied(lambda: put(kms, key, default_policy(ACCOUNT), alice))
    put(kms, key, default_policy(ACCOUNT))
    assert_denied(lambda: seal(kms, key, caller=alice))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (document(for_whom(user_arn(ACCOUNT, "nobody")), for_whom(ROOT)), "invalid principals"),
        (document(for_whom(user_arn(ACCOUNT, "bob"))), "will not allow you to update the key policy in the future"),
        (document(for_whom(ROOT, "kms:Encrypt")), "will not allow you to update"),
        (document(for_whom(ROOT, Condition={"Bool": {"kms:Unknown": "true"}})), "no condition key"),
    ],
)
def test_policies_that_are_refused(kms: Kms, people: Kms, text: str, message: str) -> None:
    """A policy without principals, one that locks its caller out, and a malformed one change nothing."""
    del people
    key = new_key(kms).key_id
    for act in (lambda: put(kms, key, text), lambda: new_key(kms, policy=text)):
        with pytest.raises(MalformedPolicyDocumentException, match=message):
            act()
    assert policy_of(kms, key) == default_policy(ACCOUNT)


def test_locking_oneself_out(kms: Kms, people: Kms) -> None:
    """Who insists may lock himself out, the root as well; the operator's way back is reset-key-policy."""
    key = new_key(kms).key_id
    put(kms, key, document(for_whom(user_arn(ACCOUNT, "bob"))), bypass_policy_lockout_safety_check=True)
    assert_denied(lambda: seal(kms, key))
    assert_denied(lambda: put(kms, key, default_policy(ACCOUNT)))
    assert people.operator.attest(key)[0].as_made
    assert seal(kms, key, caller=kms.caller(REGION, "bob"))
    kms.operator.identities.reset_key_policy(key)
    assert seal(kms, key)
    with pytest.raises(NotFoundException):
        kms.operator.identities.reset_key_policy(UNKNOWN)


def test_locking_oneself_out_by_tags(kms: Kms, people: Kms) -> None:
    """Whether a policy locks its maker out is judged with the tags that the new key, or replica, is to have."""
    del people
    team = {"StringEquals": {"aws:ResourceTag/team": "red"}}
    text = document(for_whom(ROOT, Condition=team))
    red, blue = ([Tag(tag_key="team", tag_value=each)] for each in ("red", "blue"))
    primary = new_key(kms, multi_region=True).key_id
    for wrong in (blue, None):
        for act in (
            lambda tags=wrong: new_key(kms, policy=text, tags=tags),
            lambda tags=wrong: kms.replicate_key(
                keys.ReplicateKeyRequest(key_id=primary, replica_region=OTHER_REGION, policy=text, tags=tags)
            ),
        ):
            with pytest.raises(MalformedPolicyDocumentException, match="will not allow you"):
                act()  # type: ignore[no-untyped-call]
    made = new_key(kms, policy=text, tags=red)
    put(kms, made.key_id, text)
    assert kms.replicate_key(
        keys.ReplicateKeyRequest(key_id=primary, replica_region=OTHER_REGION, policy=text, tags=red)
    )


def test_names_of_key_policies(kms: Kms) -> None:
    """There is one policy name, default; AWS_RAM is for a service of AWS, and others do not exist."""
    key = new_key(kms).key_id
    listed = kms.list_key_policies(policies.ListKeyPoliciesRequest(key_id=key, limit=1))
    assert (listed.policy_names, listed.truncated, listed.next_marker) == (["default"], False, None)
    put(kms, key, default_policy(ACCOUNT), policy_name="default")
    with pytest.raises(ValidationException, match="managed by the RAM service"):
        put(kms, key, default_policy(ACCOUNT), policy_name="AWS_RAM")
    for name in ("AWS_RAM", "other"):
        with pytest.raises(NotFoundException, match="No such policy exists"):
            kms.get_key_policy(policies.GetKeyPolicyRequest(key_id=key, policy_name=name))
    with pytest.raises(NotFoundException, match="No such policy exists"):
        put(kms, key, default_policy(ACCOUNT), policy_name="other")


def test_a_stored_policy_that_cannot_be_used(kms: Kms, alice: Caller) -> None:
    """A policy that was put before its words were checked leaves the key to the root, who can put another."""
    key = new_key(kms)
    give(kms, allow("kms:*"))
    with kms._core.store.atomic() as tx:
        record = kms._core.cache.key(REGION, key.key_id)
        assert record is not None
        assert table.set_policy(tx, key.key_id, REGION, '{"Statement":{}}', record.record.version)
    assert_denied(lambda: seal(kms, key.key_id, caller=alice))
    assert seal(kms, key.key_id)
    put(kms, key.key_id, default_policy(ACCOUNT))
    assert seal(kms, key.key_id, caller=alice)


def test_a_stored_policy_of_before(kms: Kms, alice: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """A stored policy with an unknown action is decided as before, reported in the log, and not accepted again."""
    text = document(allow(["kms:Encrypt", "kms:Decypt"]))
    with pytest.raises(MalformedPolicyDocumentException, match="did you mean kms:Decrypt"):
        kms.operator.identities.put_user_policy("alice", "p", text)
    with kms._core.store.atomic() as tx:
        identities.put_policy(tx, identities.Owner.USER, "alice", "p", text)
    key = new_key(kms).key_id
    unseal_refused = assert_denied(lambda: unseal(kms, seal(kms, key, caller=alice), alice))
    assert "kms:Decrypt" in unseal_refused
    assert "user policy p has a part without effect" in caplog.text
    assert "'kms:Decypt' is no action of KMS" in caplog.text


# -- ready-made policies ------------------------------------------------------------------------------------------

Acts = dict[str, Callable[[Kms, Caller, str, bytes], object]]
ACTS: Acts = {
    "create": lambda kms, who, _key, _: kms.create_key(keys.CreateKeyRequest(), who),
    "describe": lambda kms, who, key, _: kms.describe_key(keys.DescribeKeyRequest(key_id=key), who),
    "policy": lambda kms, who, key, _: policy_of(kms, key, who),
    "put policy": lambda kms, who, key, _: put(kms, key, default_policy(ACCOUNT), who),
    "list": lambda kms, who, _key, _: kms.list_keys(keys.ListKeysRequest(), who),
    "encrypt": lambda kms, who, key, _: seal(kms, key, caller=who),
    "decrypt": lambda kms, who, _key, sealed: unseal(kms, sealed, who),
    "rotate": lambda kms, who, key, _: kms.enable_key_rotation(rotation.EnableKeyRotationRequest(key_id=key), who),
    "delete": lambda kms, who, key, _: kms.schedule_key_deletion(deletion.ScheduleKeyDeletionRequest(key_id=key), who),
    "import": lambda kms, who, key, _: kms.get_parameters_for_import(
        importing.GetParametersForImportRequest(
            key_id=key, wrapping_algorithm="RSAES_OAEP_SHA_1", wrapping_key_spec="RSA_2048"
        ),
        who,
    ),
}
ONE_KEY = "one-key-user"
ROLES = {
    "administrator": {"create", "describe", "policy", "put policy", "list", "rotate", "delete"},
    "key-user": {"describe", "encrypt", "decrypt"},
    "auditor": {"describe", "policy", "list"},
    "import-officer": {"describe", "list", "import"},
}


@pytest.mark.parametrize("role", ROLES)
def test_ready_made_policies(kms: Kms, alice: Caller, role: str) -> None:
    """Each policy in conf/policies allows what its name says, and nothing else."""
    kms.operator.identities.put_user_policy("alice", role, (READY_MADE / f"{role}.json").read_text())
    for name, act in ACTS.items():
        key = new_empty_key(kms) if name == "import" else new_key(kms).key_id
        sealed = b"" if name == "import" else seal(kms, key)
        if name in ROLES[role]:
            act(kms, alice, key, sealed)
        else:
            assert_denied(lambda act=act, key=key, sealed=sealed: act(kms, alice, key, sealed))  # type: ignore[misc]


def test_policy_for_one_key(kms: Kms, alice: Caller) -> None:
    """That of one key allows its use, by id or alias, and nothing else; as it is shipped it names no key."""
    text = (READY_MADE / f"{ONE_KEY}.json").read_text()
    mine, other = new_key(kms), new_key(kms)
    new_alias(kms, "alias/mine", mine.key_id)
    kms.operator.identities.put_user_policy("alice", "one", text)
    assert_denied(lambda: seal(kms, mine.key_id, caller=alice))
    document = json.loads(text)
    document["Statement"][0]["Resource"] = mine.arn
    kms.operator.identities.put_user_policy("alice", "one", json.dumps(document))
    assert unseal(kms, seal(kms, "alias/mine", caller=alice), alice) == b"secret"
    assert_denied(lambda: seal(kms, other.key_id, caller=alice))
    sealed = seal(kms, other.key_id)
    assert_denied(lambda: unseal(kms, sealed, alice))
    for name in ACTS.keys() - ROLES["key-user"]:
        assert_denied(lambda act=ACTS[name]: act(kms, alice, mine.key_id, b""))  # type: ignore[misc]


def test_every_ready_made_policy_is_tested() -> None:
    """The folder has these five."""
    assert {path.stem for path in READY_MADE.iterdir()} == {*ROLES, ONE_KEY}


# -- permissions stay ---------------------------------------------------------------------------------------------


def test_permissions_stay_through_a_keys_life(kms: Kms, alice: Caller) -> None:
    """Rotation, manual rotation by alias and re-import leave policies and grants as they are."""
    bob = kms.caller(REGION, "bob")
    text = document(for_whom(ROOT), for_whom(alice.principal, ["kms:Encrypt", "kms:Decrypt"]))
    empty = new_key(kms, origin="EXTERNAL", policy=text).key_id
    rotating, successor = new_key(kms, policy=text).key_id, new_key(kms, policy=text).key_id
    for key in (rotating, empty):
        if key == empty:
            kms.import_key_material(request_to_import(kms, key))
        kms.create_grant(grants.CreateGrantRequest(key_id=key, grantee_principal=bob.principal, operations=["Decrypt"]))
    new_alias(kms, "alias/life", rotating)
    before = {
        key: (policy_of(kms, key), kms.list_grants(grants.ListGrantsRequest(key_id=key))) for key in (rotating, empty)
    }
    sealed = {key: seal(kms, key, caller=alice) for key in (rotating, empty)}

    kms.rotate_key_on_demand(rotation.RotateKeyOnDemandRequest(key_id=rotating))
    kms.delete_imported_key_material(importing.DeleteImportedKeyMaterialRequest(key_id=empty))
    kms.import_key_material(request_to_import(kms, empty))
    kms.update_alias(aliases.UpdateAliasRequest(alias_name="alias/life", target_key_id=successor))

    for key, policy in before.items():
        assert (policy_of(kms, key), kms.list_grants(grants.ListGrantsRequest(key_id=key))) == policy
        assert unseal(kms, sealed[key], alice) == unseal(kms, sealed[key], bob) == b"secret"
        assert_denied(lambda key=key: seal(kms, key, caller=bob))  # type: ignore[misc]
    assert seal(kms, "alias/life", caller=alice)
    assert_denied(lambda: seal(kms, "alias/life", caller=kms.caller(REGION, "carol")))


# -- simulation ---------------------------------------------------------------------------------------------------


def test_simulation(kms: Kms, alice: Caller) -> None:
    """The simulation says what would be decided and by what, for each kind of cause, and does nothing."""
    key = new_key(kms, policy=document(for_whom(ROOT), for_whom(user_arn(ACCOUNT, "bob"), "kms:Encrypt", Sid="b")))

    def simulated(user: str | None, action: str, **more: Any) -> tuple[str, str | None, str | None]:  # noqa: ANN401
        simulation = kms.operator.simulate(user, action, key_id=key.key_id, **more)
        return simulation.decision, simulation.decided_by, simulation.statement

    assert simulated("alice", "kms:Encrypt") == ("implicitDeny", None, None)
    assert simulated("bob", "encrypt") == ("allowed", "key policy", "b")
    assert simulated(None, "kms:DisableKey") == ("allowed", "the account's root", None)
    condition = {"StringEquals": {"kms:EncryptionContext:a": "b"}}
    give(kms, allow("kms:ReEncrypt*", Sid="own", Condition=condition), {"Effect": "Deny", "Action": "kms:Verify"})
    assert simulated("alice", "kms:ReEncryptTo") == ("implicitDeny", None, None)
    allowed = ("allowed", "user policy p", "own")
    assert simulated("alice", "kms:ReEncryptTo", encryption_context={"a": "b"}) == allowed
    assert simulated("alice", "kms:Verify") == ("explicitDeny", "user policy p", "statement 2")
    request = grants.CreateGrantRequest(key_id=key.key_id, grantee_principal=alice.principal, operations=["Decrypt"])
    grant_id = kms.create_grant(request).grant_id
    assert simulated("alice", "kms:Decrypt") == ("allowed", f"grant {grant_id}", None)
    assert kms.operator.simulate("alice", "kms:ListKeys").decision == "implicitDeny"


@pytest.mark.parametrize(
    ("action", "more", "error"),
    [
        ("kms:Fly", {"key_id": UNKNOWN}, ValidationException),
        ("kms:RetireGrant", {"key_id": UNKNOWN}, ValidationException),
        ("kms:Encrypt", {}, ValidationException),
        ("kms:Encrypt", {"key_id": UNKNOWN}, NotFoundException),
        ("kms:ListKeys", {"encryption_context": {"a": "b"}}, ValidationException),
        ("kms:ListKeys", {"members": {"Limit": "x"}}, ValidationException),
    ],
)
def test_what_cannot_be_simulated(kms: Kms, action: str, more: dict[str, Any], error: type[HsmKmsError]) -> None:
    """What cannot be asked is refused with a sentence."""
    with pytest.raises(error):
        kms.operator.simulate(None, action, **more)


def test_hint_for_a_misspelt_action(kms: Kms) -> None:
    """A misspelt action gets the same hint as in a policy; one that resembles none gets the name of another one."""
    for action, hint in {"kms:Decypt": "did you mean kms:Decrypt", "kms:Xyzzy": "or kms:ReEncryptFrom"}.items():
        with pytest.raises(ValidationException, match=f"no action of KMS: .*{hint}"):
            kms.operator.simulate(None, action, key_id=UNKNOWN)
