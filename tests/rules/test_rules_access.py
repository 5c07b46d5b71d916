"""Decisions: the order of what counts, AWS's documented examples, and two laws."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from questions import (
    ACCOUNT,
    ALICE,
    BOB,
    DELEGATING,
    KEY_ARN,
    ROOT,
    Document,
    a_grant,
    allow,
    ask,
    decided,
    deny,
    key_policy,
    mine,
    own,
)

from hsmkms.model.aliases import CreateAliasRequest
from hsmkms.model.crypto import DecryptRequest, EncryptRequest, ReEncryptRequest
from hsmkms.model.deletion import ScheduleKeyDeletionRequest
from hsmkms.model.enums import KeySpec, KeyUsage, Operation
from hsmkms.model.grants import CreateGrantRequest, GrantConstraints
from hsmkms.model.importing import ImportKeyMaterialRequest
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.model.policies import PutKeyPolicyRequest
from hsmkms.model.records import GrantRecord
from hsmkms.model.shapes import Tag
from hsmkms.model.tags import TagResourceRequest, UntagResourceRequest
from hsmkms.rules.iam import patterns
from hsmkms.rules.iam.access import Decision, Outcome, decide_retiring, keeps_control, refusal
from hsmkms.rules.iam.question import Question

YES, NO, NEVER = Outcome.ALLOWED, Outcome.IMPLICIT_DENY, Outcome.EXPLICIT_DENY
EVERYTHING = own(mine("*"))


# -- the order of what counts -------------------------------------------------------------------------------------


def test_nothing_allows() -> None:
    """A user without any policy may do nothing, also where the key's policy names the user's account."""
    decision = decided(ask())
    assert (decision.outcome, decision.kind) == (NO, "identity-based")


def test_account_and_own_policy() -> None:
    """Where the key's policy names the account and the user's own allows, the request is allowed; both are reported."""
    decision = decided(ask(), DELEGATING, own(mine("kms:Encrypt", Sid="use")))
    assert (decision.outcome, decision.policy, decision.statement) == (YES, "user policy p", "use")
    assert decision.delegated_by == "statement 1"


def test_own_policy_alone() -> None:
    """A policy of the user's alone is void where the key's policy does not name the account."""
    decision = decided(ask(), key_policy(allow({"AWS": BOB})), EVERYTHING)
    assert (decision.outcome, decision.kind) == (NO, "resource-based")


def test_account_allows_only_what_it_says() -> None:
    """What the account's statement does not name, or its conditions exclude, no user's policy allows."""
    reading = key_policy(allow({"AWS": ROOT}, "kms:DescribeKey"))
    assert decided(ask("kms:DescribeKey"), reading, EVERYTHING).allowed
    assert not decided(ask(), reading, EVERYTHING).allowed
    spec = {"StringEquals": {"kms:KeySpec": "RSA_2048"}}
    assert not decided(ask(), key_policy(allow({"AWS": ROOT}, Condition=spec)), EVERYTHING).allowed


@pytest.mark.parametrize("most", [1, patterns.MAX_KNOWN])
def test_a_resource_is_matched_again(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """What a pattern of resources has matched before decides nothing about other resources, however many there are."""
    monkeypatch.setattr(patterns, "MAX_KNOWN", most)
    policies = own(mine(Resource=f"{KEY_ARN[:-1]}?", Condition={"Bool": {"aws:SecureTransport": "true"}}))
    for _ in range(2):
        for last in "0123456789abcdefX":
            allowed = decided(ask(resource=f"{KEY_ARN[:-1]}{last}"), DELEGATING, policies).allowed
            assert allowed, last
            assert not decided(ask(resource=f"{KEY_ARN}{last}"), DELEGATING, policies).allowed


@pytest.mark.parametrize("principal", [{"AWS": ALICE}, {"AWS": [BOB, ALICE]}, "*", {"AWS": "*"}])
def test_named_by_the_key_policy(principal: object) -> None:
    """A principal that the key's policy names needs no policy of its own."""
    decision = decided(ask(), key_policy(allow(principal, Sid="named")))
    assert (decision.outcome, decision.policy, decision.statement) == (YES, "key policy", "named")
    assert decided(ask(user="carol"), key_policy(allow({"AWS": ALICE}))).outcome is NO


@pytest.mark.parametrize(
    ("policy", "policies", "kind"),
    [
        (key_policy(allow("*"), deny({"AWS": ALICE})), EVERYTHING, "resource-based"),
        (key_policy(allow("*"), deny({"AWS": ROOT})), EVERYTHING, "resource-based"),
        (key_policy(allow("*"), deny({"AWS": ACCOUNT})), [], "resource-based"),
        (key_policy(deny("*"), allow("*")), [], "resource-based"),
        (key_policy(allow("*")), own(mine("*", "Deny")), "identity-based"),
        (key_policy(allow("*"), {"Effect": "Deny", "NotPrincipal": {"AWS": [BOB, ROOT]}, "Action": "*"}), [], "res"),
    ],
)
def test_a_denial_wins(policy: Any, policies: Any, kind: str) -> None:  # noqa: ANN401 - as decided() takes them
    """An explicit Deny of either side wins over every Allow and every grant."""
    decision = decided(ask(), policy, policies, [a_grant("Encrypt")])
    assert decision.outcome is NEVER
    assert decision.kind.startswith(kind)


def test_not_principal_spares_whom_it_names() -> None:
    """NotPrincipal denies all principals but those that it names."""
    policy = key_policy(allow("*"), {"Effect": "Deny", "NotPrincipal": {"AWS": [BOB, ROOT]}, "Action": "*"})
    assert decided(ask(user="bob"), policy).allowed
    assert decided(ask(user=None), policy).allowed


def test_root() -> None:
    """The account's root may do what the key's policy leaves to the account, and no more."""
    assert decided(ask(user=None)).allowed
    assert not decided(ask(user=None), key_policy(allow({"AWS": ALICE}))).allowed
    assert decided(ask(user=None), key_policy(allow("*"), deny({"AWS": ALICE}))).allowed
    assert decided(ask("kms:CreateKey", user=None, about_key=False), None).allowed


def test_about_no_key() -> None:
    """Where there is no key the caller's own policies alone decide, for the resource ``*``."""
    question = ask("kms:ListKeys", about_key=False)
    assert decided(question, None).outcome is NO
    assert decided(question, None, own(mine("kms:List*"))).allowed
    assert decided(question, None, own(mine("kms:List*", Resource=KEY_ARN))).outcome is NO
    assert decided(question, None, own(mine("kms:List*"), mine("kms:ListKeys", "Deny"))).outcome is NEVER


def test_grant() -> None:
    """A grant allows its grantee its operations, without any policy."""
    decision = decided(ask(), DELEGATING, [], [a_grant("Decrypt"), a_grant("Encrypt", grant_id="cd" * 32)])
    assert (decision.outcome, decision.policy) == (YES, f"grant {'cd' * 32}")
    assert decided(ask(user="bob"), DELEGATING, [], [a_grant("Encrypt")]).outcome is NO


# -- AWS's documented examples ------------------------------------------------------------------------------------

KEY_USERS = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
ADMINISTRATORS = [
    *("kms:Create*", "kms:Describe*", "kms:Enable*", "kms:List*", "kms:Put*", "kms:Update*", "kms:Revoke*"),
    *("kms:Disable*", "kms:Get*", "kms:Delete*", "kms:TagResource", "kms:UntagResource"),
    *("kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion"),
]
CONSOLE_POLICY = key_policy(
    allow({"AWS": ROOT}, Sid="Enable IAM User Permissions"),
    allow({"AWS": ALICE}, ADMINISTRATORS, Sid="Allow access for Key Administrators"),
    allow({"AWS": [BOB]}, KEY_USERS, Sid="Allow use of the key"),
    allow(
        {"AWS": [BOB]},
        ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"],
        Sid="Allow attachment of persistent resources",
        Condition={"Bool": {"kms:GrantIsForAWSResource": "true"}},
    ),
)


def context(**pairs: str) -> EncryptRequest:
    """An Encrypt with an encryption context."""
    return EncryptRequest(key_id="k", plaintext=b"p", encryption_context=pairs or None)


def new_grant(**members: Any) -> CreateGrantRequest:  # noqa: ANN401 - members of the request
    """A CreateGrant for bob."""
    return CreateGrantRequest(**{"key_id": "k", "operations": ["Encrypt"], "grantee_principal": BOB, **members})


def when(operator: str, key: str, value: object) -> Document:
    """A Condition block with one line."""
    return {"Condition": {operator: {key: value}}}


def only(action: object, *condition: object) -> Any:  # noqa: ANN401 - a policy
    """A key policy that allows alice an action under a condition."""
    return key_policy(allow({"AWS": ALICE}, action, **(when(*condition) if condition else {})))  # type: ignore[arg-type]


def user_may(action: object, **more: object) -> tuple[Any, Any]:
    """The default key policy, and a policy of the user's."""
    return DELEGATING, own(mine(action, **more))


ANY_KEY = "arn:aws:kms:*:111122223333:key/*"
TWO_KEYS = [KEY_ARN, "arn:aws:kms:eu-central-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321"]
APP = ("StringEquals", "kms:EncryptionContext:AppName", "ExampleApp")

DOCUMENTED: list[tuple[str, Any, Question, Outcome]] = [
    # Developer guide, "Default key policy": administrators and users of the key
    ("administrator manages", (CONSOLE_POLICY, []), ask("kms:PutKeyPolicy"), YES),
    ("administrator deletes", (CONSOLE_POLICY, []), ask("kms:ScheduleKeyDeletion"), YES),
    ("administrator does not use", (CONSOLE_POLICY, []), ask("kms:Decrypt", request=DecryptRequest()), NO),
    ("user uses", (CONSOLE_POLICY, []), ask("kms:GenerateDataKeyWithoutPlaintext", user="bob"), YES),
    ("user does not manage", (CONSOLE_POLICY, []), ask("kms:DisableKey", user="bob"), NO),
    ("grants for AWS only", (CONSOLE_POLICY, []), ask("kms:CreateGrant", user="bob", request=new_grant()), NO),
    # "IAM policy examples"
    ("one key", user_may("kms:Encrypt", Resource=TWO_KEYS), ask(), YES),
    ("another key", user_may("kms:Encrypt", Resource=TWO_KEYS[1:]), ask(), NO),
    ("any key of the account", user_may(["kms:Encrypt", "kms:Decrypt"], Resource=ANY_KEY), ask(), YES),
    ("create keys", (None, own(mine("kms:CreateKey"))), ask("kms:CreateKey", about_key=False), YES),
    (
        "prevent deletion",
        (DELEGATING, own(mine("kms:*"), mine(["kms:DisableKey", "kms:ScheduleKeyDeletion"], "Deny"))),
        ask("kms:DisableKey"),
        NEVER,
    ),
    (
        "alias in Resource is not its key",
        user_may("kms:Encrypt", Resource="arn:aws:kms:*:*:alias/*"),
        ask(),
        NO,
    ),
    (
        "alias operations on the alias",
        (None, own(mine("kms:CreateAlias", Resource="arn:aws:kms:*:111122223333:alias/Example*"))),
        ask(
            "kms:CreateAlias",
            request=CreateAliasRequest(alias_name="alias/ExampleAlias", target_key_id="k"),
            about_key=False,
            resource="arn:aws:kms:eu-central-1:111122223333:alias/ExampleAlias",
        ),
        YES,
    ),
    # The key kms:BypassPolicyLockoutSafetyCheck
    (
        "no bypass",
        (DELEGATING, own(mine("kms:*"), mine("*", "Deny", **when("Bool", "kms:BypassPolicyLockoutSafetyCheck", True)))),
        ask("kms:PutKeyPolicy", request=PutKeyPolicyRequest(bypass_policy_lockout_safety_check=True)),
        NEVER,
    ),
    # The key kms:CallerAccount kms:ViaService
    ("caller's account", (only("kms:Encrypt", "StringEquals", "kms:CallerAccount", ACCOUNT), []), ask(), YES),
    ("no service", (only("*", "StringEquals", "kms:ViaService", "ec2.us-west-2.amazonaws.com"), []), ask(), NO),
    # The key kms:EncryptionAlgorithm
    (
        "algorithm by default",
        (only("*", "StringEquals", "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT"), []),
        ask(),
        YES,
    ),
    (
        "weak algorithm",
        (only("*", "StringLike", "kms:EncryptionAlgorithm", "RSAES_OAEP_SHA_*"), []),
        ask(request=EncryptRequest(key_id="k", plaintext=b"p", encryption_algorithm="RSAES_OAEP_SHA_256")),
        YES,
    ),
    # The key kms:EncryptionContext:context-key
    ("context pair", (only("*", *APP), []), ask(request=context(AppName="ExampleApp", More="x")), YES),
    ("context key in another case", (only("*", *APP), []), ask(request=context(appname="ExampleApp")), YES),
    ("context value in another case", (only("*", *APP), []), ask(request=context(AppName="exampleapp")), NO),
    ("no context", (only("*", *APP), []), ask(request=context()), NO),
    (
        "context must be there",
        (key_policy(allow("*"), deny("*", **when("Null", "kms:EncryptionContext:AppName", "true"))), []),
        ask(request=context()),
        NEVER,
    ),
    (
        "context of the source",
        (only("kms:ReEncryptFrom", *APP), []),
        ask(
            "kms:ReEncryptFrom",
            operation=Operation.RE_ENCRYPT,
            request=ReEncryptRequest(source_encryption_context={"AppName": "ExampleApp"}),
        ),
        YES,
    ),
    (
        "context of the destination",
        (only("kms:ReEncrypt*", *APP), []),
        ask(
            "kms:ReEncryptTo",
            operation=Operation.RE_ENCRYPT,
            request=ReEncryptRequest(source_encryption_context={"AppName": "ExampleApp"}),
        ),
        NO,
    ),
    # The key kms:EncryptionContextKeys
    (
        "context keys, some",
        (only("*", "ForAnyValue:StringEquals", "kms:EncryptionContextKeys", ["AppName", "Dept"]), []),
        ask(request=context(AppName="x", Other="y")),
        YES,
    ),
    (
        "context keys, all",
        (only("*", "ForAllValues:StringEquals", "kms:EncryptionContextKeys", ["AppName", "Dept"]), []),
        ask(request=context(AppName="x", Other="y")),
        NO,
    ),
    # The key kms:KeySpec kms:KeyUsage kms:KeyOrigin kms:MultiRegion
    (
        "no RSA keys",
        (None, own(mine("kms:CreateKey"), mine("kms:CreateKey", "Deny", **when("StringLike", "kms:KeySpec", "RSA_*")))),
        ask(
            "kms:CreateKey",
            about_key=False,
            request=CreateKeyRequest(key_spec=KeySpec.RSA_4096, key_usage=KeyUsage.SIGN_VERIFY),
        ),
        NEVER,
    ),
    (
        "usage of a new key by default",
        (None, own(mine("kms:CreateKey", **when("StringEquals", "kms:KeyUsage", "ENCRYPT_DECRYPT")))),
        ask("kms:CreateKey", about_key=False, request=CreateKeyRequest()),
        YES,
    ),
    (
        "only imported keys",
        (None, own(mine("kms:CreateKey", **when("StringEquals", "kms:KeyOrigin", "EXTERNAL")))),
        ask("kms:CreateKey", about_key=False, request=CreateKeyRequest(origin="AWS_KMS")),
        NO,
    ),
    ("usage of the key", (only("*", "StringEquals", "kms:KeyUsage", "ENCRYPT_DECRYPT"), []), ask(), YES),
    ("single region", (only("*", "Bool", "kms:MultiRegion", "false"), []), ask(), YES),
    # The key kms:ExpirationModel kms:ValidTo
    (
        "expiring before a date",
        (only("kms:ImportKeyMaterial", "NumericLessThanEquals", "kms:ValidTo", "1546257599.0"), []),
        ask("kms:ImportKeyMaterial", request=ImportKeyMaterialRequest(valid_to=datetime(2018, 1, 1, tzinfo=UTC))),
        YES,
    ),
    (
        "model not told",
        (only("kms:ImportKeyMaterial", "StringEquals", "kms:ExpirationModel", "KEY_MATERIAL_EXPIRES"), []),
        ask("kms:ImportKeyMaterial", request=ImportKeyMaterialRequest()),
        NO,
    ),
    # The key kms:GrantOperations kms:GranteePrincipal kms:GrantConstraintType
    (
        "grants of these operations",
        (only("*", "ForAllValues:StringEquals", "kms:GrantOperations", ["Encrypt", "Decrypt"]), []),
        ask("kms:CreateGrant", request=new_grant()),
        YES,
    ),
    (
        "grants of other operations",
        (only("*", "ForAllValues:StringEquals", "kms:GrantOperations", ["Decrypt"]), []),
        ask("kms:CreateGrant", request=new_grant()),
        NO,
    ),
    (
        "grants to these principals",
        (only("*", "StringEquals", "kms:GranteePrincipal", BOB), []),
        ask("kms:CreateGrant", request=new_grant()),
        YES,
    ),
    (
        "grants with a constraint",
        (only("*", "StringEquals", "kms:GrantConstraintType", "EncryptionContextSubset"), []),
        ask("kms:CreateGrant", request=new_grant(constraints=GrantConstraints(encryption_context_subset={"a": "b"}))),
        YES,
    ),
    (
        "context of a grant",
        (only("*", *APP), []),
        ask(
            "kms:CreateGrant",
            request=new_grant(constraints=GrantConstraints(encryption_context_equals={"AppName": "ExampleApp"})),
        ),
        YES,
    ),
    # The key kms:PolicyName
    (
        "policy name by default",
        (only("*", "StringEquals", "kms:PolicyName", "default"), []),
        ask("kms:PutKeyPolicy"),
        YES,
    ),
    # The key kms:ReEncryptOnSameKey
    (
        "re-encryption on the same key",
        (only("kms:ReEncrypt*", "Bool", "kms:ReEncryptOnSameKey", True), []),
        ask("kms:ReEncryptFrom", operation=Operation.RE_ENCRYPT, request=ReEncryptRequest(), before=[KEY_ARN]),
        YES,
    ),
    (
        "re-encryption to another key",
        (only("kms:ReEncrypt*", "Bool", "kms:ReEncryptOnSameKey", True), []),
        ask("kms:ReEncryptFrom", operation=Operation.RE_ENCRYPT, request=ReEncryptRequest(), before=[TWO_KEYS[1]]),
        NO,
    ),
    # The key kms:RequestAlias kms:ResourceAliases
    (
        "by this alias",
        (only("*", "StringEquals", "kms:RequestAlias", "alias/ExampleAlias"), []),
        ask(request=EncryptRequest(key_id=f"arn:aws:kms:r:{ACCOUNT}:alias/ExampleAlias", plaintext=b"p")),
        YES,
    ),
    (
        "by the key's id",
        (only("*", "StringEquals", "kms:RequestAlias", "alias/ExampleAlias"), []),
        ask(request=EncryptRequest(key_id=KEY_ARN, plaintext=b"p")),
        NO,
    ),
    (
        "a key with such an alias",
        user_may("kms:*", **when("ForAnyValue:StringLike", "kms:ResourceAliases", "alias/test*")),
        ask(aliases=["alias/other", "alias/test-1"]),
        YES,
    ),
    (
        "a key without aliases",
        user_may("kms:*", **when("ForAnyValue:StringLike", "kms:ResourceAliases", "alias/test*")),
        ask(),
        NO,
    ),
    # The key kms:ScheduleKeyDeletionPendingWindowInDays
    (
        "short waiting period",
        (
            DELEGATING,
            own(
                mine("*"),
                mine("*", "Deny", **when("NumericLessThan", "kms:ScheduleKeyDeletionPendingWindowInDays", 21)),
            ),
        ),
        ask("kms:ScheduleKeyDeletion", request=ScheduleKeyDeletionRequest(pending_window_in_days=7)),
        NEVER,
    ),
    (
        "waiting period by default",
        (
            DELEGATING,
            own(
                mine("*"),
                mine("*", "Deny", **when("NumericLessThan", "kms:ScheduleKeyDeletionPendingWindowInDays", 21)),
            ),
        ),
        ask("kms:ScheduleKeyDeletion", request=ScheduleKeyDeletionRequest()),
        YES,
    ),
    # Developer guide, tags and permissions
    (
        "tag of the key",
        user_may("kms:*", **when("StringEquals", "aws:ResourceTag/Project", "Alpha")),
        ask(tags={"Project": "Alpha"}),
        YES,
    ),
    (
        "another tag",
        user_may("kms:*", **when("StringEquals", "aws:ResourceTag/Project", "Alpha")),
        ask(tags={"Project": "Beta"}),
        NO,
    ),
    (
        "tag of key and user agree",
        user_may("kms:*", **when("StringEquals", "aws:ResourceTag/team", "${aws:PrincipalTag/team}")),
        ask(tags={"team": "red"}, user_tags={"team": "red"}),
        YES,
    ),
    (
        "user without the tag",
        user_may("kms:*", **when("StringEquals", "aws:ResourceTag/team", "${aws:PrincipalTag/team}")),
        ask(tags={"team": "red"}),
        NO,
    ),
    (
        "tags that may be set",
        user_may("kms:TagResource", **when("ForAllValues:StringEquals", "aws:TagKeys", ["Project"])),
        ask("kms:TagResource", request=TagResourceRequest(tags=[Tag(tag_key="Owner", tag_value="x")])),
        NO,
    ),
    (
        "tags that may be removed",
        user_may("kms:UntagResource", **when("ForAllValues:StringEquals", "aws:TagKeys", ["Project"])),
        ask("kms:UntagResource", request=UntagResourceRequest(tag_keys=["Project"])),
        YES,
    ),
    (
        "value of a new tag",
        user_may("kms:TagResource", **when("StringEquals", "aws:RequestTag/Project", "Alpha")),
        ask("kms:TagResource", request=TagResourceRequest(tags=[Tag(tag_key="Project", tag_value="Alpha")])),
        YES,
    ),
    # IAM user guide
    (
        "from this network",
        user_may("kms:*", **when("IpAddress", "aws:SourceIp", "203.0.113.0/24")),
        ask(source_address="203.0.113.7"),
        YES,
    ),
    (
        "from elsewhere",
        user_may("kms:*", **when("IpAddress", "aws:SourceIp", "203.0.113.0/24")),
        ask(source_address="198.51.100.1"),
        NO,
    ),
    ("no address", user_may("kms:*", **when("NotIpAddress", "aws:SourceIp", "203.0.113.0/24")), ask(), YES),
    (
        "in the clear",
        (key_policy(allow("*"), deny("*", **when("Bool", "aws:SecureTransport", "false"))), []),
        ask(secure_transport=False),
        NEVER,
    ),
    ("until a date", user_may("kms:*", **when("DateLessThan", "aws:CurrentTime", "2026-06-02T00:00:00Z")), ask(), YES),
    ("after that date", user_may("kms:*", **when("DateLessThan", "aws:CurrentTime", "2026-06-01")), ask(), NO),
    ("in this region", user_may("kms:*", **when("StringEquals", "aws:RequestedRegion", ["eu-central-1"])), ask(), YES),
    (
        "key named like the user",
        user_may("kms:*", **when("StringLike", "aws:ResourceTag/owner", "${aws:username}-*")),
        ask(tags={"owner": "alice-x"}),
        YES,
    ),
    (
        "without a second factor",
        (DELEGATING, own(mine("*"), mine("*", "Deny", **when("BoolIfExists", "aws:MultiFactorAuthPresent", "false")))),
        ask(),
        NEVER,
    ),
    ("everybody but one", (key_policy(allow("*", **when("ArnNotEquals", "aws:PrincipalArn", ALICE))), []), ask(), NO),
]


@pytest.mark.parametrize(
    ("policies", "question", "outcome"), [row[1:] for row in DOCUMENTED], ids=[row[0] for row in DOCUMENTED]
)
def test_documented_examples(policies: Any, question: Question, outcome: Outcome) -> None:  # noqa: ANN401
    """The examples of AWS's guides are decided as these say."""
    assert decided(question, *policies).outcome is outcome


# -- wording ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "end"),
    [
        (Decision(NO, "identity-based"), "because no identity-based policy allows the kms:Encrypt action"),
        (Decision(NO, "resource-based"), "because no resource-based policy allows the kms:Encrypt action"),
        (Decision(NEVER, "resource-based"), "with an explicit deny in a resource-based policy"),
        (Decision(NEVER, "identity-based"), "with an explicit deny in an identity-based policy"),
    ],
)
def test_refusals_are_worded_as_by_aws(decision: Decision, end: str) -> None:
    """A refusal names caller, action, resource, and what stood against it."""
    sentence = str(refusal(ask(), decision))
    assert sentence == f"User: {ALICE} is not authorized to perform: kms:Encrypt on resource: {KEY_ARN} {end}"


# -- the lock-out check and retiring ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "kept"),
    [
        ([allow({"AWS": ROOT})], True),
        ([allow({"AWS": ALICE}, "kms:Put*")], True),
        ([allow("*")], True),
        ([allow({"AWS": BOB})], False),
        ([allow({"AWS": ROOT}, "kms:Encrypt")], False),
        ([allow({"AWS": ROOT}), deny({"AWS": ALICE}, "kms:PutKeyPolicy")], False),
        ([allow({"AWS": ROOT}, **when("StringEquals", "kms:KeySpec", "RSA_2048"))], False),
    ],
)
def test_keeping_control(statements: list[Document], kept: bool) -> None:  # noqa: FBT001 - a column
    """A new key policy must let its maker, or the account, change it again."""
    assert keeps_control(ask("kms:PutKeyPolicy"), key_policy(*statements)) is kept


@pytest.mark.parametrize(
    ("grant", "policies", "outcome"),
    [
        (a_grant("Encrypt", retiring=ALICE, grantee=BOB), [], YES),
        (a_grant("Encrypt", "RetireGrant"), [], YES),
        (a_grant("Encrypt"), [], NO),
        (a_grant("Encrypt", grantee=BOB), EVERYTHING, NO),
        (a_grant("Encrypt", grantee=BOB, retiring=ROOT), EVERYTHING, YES),
        (a_grant("Encrypt", "RetireGrant"), own(mine("kms:RetireGrant", "Deny")), NEVER),
    ],
)
def test_retiring(grant: Any, policies: Any, outcome: Outcome) -> None:  # noqa: ANN401 - as they are
    """Who may retire a grant is said by the grant; a policy can only deny it, or stand in for the account."""
    question = ask("kms:RetireGrant")
    assert decide_retiring(question, DELEGATING, policies, grant).outcome is outcome
    assert decide_retiring(ask("kms:RetireGrant", user=None), DELEGATING, [], grant).outcome is YES


# -- two laws -----------------------------------------------------------------------------------------------------

ACTIONS = st.sampled_from(["kms:*", "kms:Encrypt", "kms:Decrypt", "kms:E*", "*", "kms:??crypt"])
PRINCIPALS = st.sampled_from(["*", {"AWS": ALICE}, {"AWS": BOB}, {"AWS": ROOT}, {"AWS": [ALICE, ROOT]}])
CONDITIONS = st.sampled_from(
    [
        {},
        when("StringEquals", "kms:KeySpec", "SYMMETRIC_DEFAULT"),
        when("StringNotEquals", "aws:username", "alice"),
        when("Bool", "aws:SecureTransport", "true"),
        when("Null", "aws:SourceIp", "true"),
        when("StringEquals", "kms:EncryptionContext:a", "b"),
    ]
)
EFFECTS = st.sampled_from(["Allow", "Deny"])
KEY_STATEMENTS = st.builds(
    lambda principal, action, condition, effect: allow(principal, action, **condition) | {"Effect": effect},
    *(PRINCIPALS, ACTIONS, CONDITIONS, EFFECTS),
)
OWN_STATEMENTS = st.builds(
    lambda action, condition, effect: mine(action, effect, **condition), ACTIONS, CONDITIONS, EFFECTS
)
GRANTS = st.lists(
    st.sampled_from([a_grant("Encrypt"), a_grant("Decrypt"), a_grant("Encrypt", grantee=BOB)]), max_size=2
)
QUESTIONS = st.builds(
    lambda user, action, secure: ask(f"kms:{action}", user=user, secure_transport=secure),
    *(st.sampled_from(["alice", "bob", "carol", None]), st.sampled_from(["Encrypt", "Decrypt"]), st.booleans()),
)


@given(
    QUESTIONS, st.lists(KEY_STATEMENTS, min_size=1, max_size=4), st.lists(OWN_STATEMENTS, max_size=3), GRANTS, st.data()
)
def test_a_denial_never_widens(
    question: Question,
    key: list[Document],
    policies: list[Document],
    grants: list[GrantRecord],
    data: st.DataObject,
) -> None:
    """Whatever is refused stays refused when a Deny is added on either side, in any place."""
    before = decided(question, key_policy(*key), own(*policies) if policies else [], grants)
    if data.draw(st.booleans()):
        key.insert(data.draw(st.integers(0, len(key))), data.draw(KEY_STATEMENTS) | {"Effect": "Deny"})
    else:
        policies.insert(data.draw(st.integers(0, len(policies))), data.draw(OWN_STATEMENTS) | {"Effect": "Deny"})
    after = decided(question, key_policy(*key), own(*policies) if policies else [], grants)
    assert before.allowed or not after.allowed


IRRELEVANT = st.sampled_from(
    [
        allow("*", "kms:Sign"),
        deny("*", "kms:DisableKey"),
        allow("*", **when("StringEquals", "kms:KeySpec", "RSA_2048")),
        deny("*", **when("StringEquals", "aws:username", "nobody")),
        deny({"AWS": "arn:aws:iam::111122223333:user/nobody"}),
        deny("*", Resource="arn:aws:kms:eu-central-1:111122223333:key/another"),
    ]
)


@given(
    QUESTIONS,
    st.lists(KEY_STATEMENTS, min_size=1, max_size=4),
    st.lists(OWN_STATEMENTS, max_size=3),
    IRRELEVANT,
    st.integers(0, 4),
)
def test_an_irrelevant_statement_changes_nothing(
    question: Question, key: list[Document], policies: list[Document], statement: Document, place: int
) -> None:
    """A statement for another action, caller, resource or situation changes no decision, wherever it stands."""
    mine_ = own(*policies) if policies else []
    before = decided(question, key_policy(*key), mine_)
    after = decided(question, key_policy(*key[:place], statement, *key[place:]), mine_)
    assert (before.outcome, before.kind) == (after.outcome, after.kind)
