"""Reading policies: what is refused, and why; what is taken; operators, patterns and variables one by one."""

import json
import time
from collections.abc import Callable
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
    ROOT,
    allow,
    ask,
    decided,
    document,
    key_policy,
    mine,
    own,
    user_id_of,
)

from hsmkms.errors import LimitExceededException, MalformedPolicyDocumentException
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.enums import Operation
from hsmkms.model.ids import user_arn
from hsmkms.rules.iam import condition_keys
from hsmkms.rules.iam.access import OwnPolicy
from hsmkms.rules.iam.documents import PolicyKind, read
from hsmkms.rules.iam.operators import OPERATORS
from hsmkms.rules.iam.policies import (
    default_policy,
    read_key_policy,
    service_policy,
    stored_key_policy,
    stored_own_policy,
    unreadable,
)
from hsmkms.rules.iam.policy_json import decode, replace_principal

GOOD = allow("*", Resource="*")
OWN = mine(Resource="*")


def under(operator: str, key: str, value: object) -> dict[str, Any]:
    """A statement of a user's policy with one condition."""
    return OWN | {"Condition": {operator: {key: value}}}


def test_default_policy() -> None:
    """The default policy is AWS's, with the account's root as principal, and can be put."""
    text = default_policy(ACCOUNT)
    assert json.loads(text) == {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    read_key_policy(text, ACCOUNT)


def test_policy_of_services() -> None:
    """The policy of services' keys lets all principals use them, and those that the account allows view them."""
    policy = read_key_policy(service_policy(ACCOUNT), ACCOUNT)
    for action in ("Encrypt", "Decrypt", "ReEncryptTo", "GenerateDataKeyWithoutPlaintext", "DescribeKey"):
        question = ask() if action == "Encrypt" else None
        assert any(each.fits(question or ask()) for each in policy.allows[f"kms:{action}"])
    assert "kms:ScheduleKeyDeletion" not in policy.allows
    assert not decided(ask("kms:GetKeyPolicy"), policy).allowed
    assert decided(ask("kms:GetKeyPolicy"), policy, own(mine("kms:Get*"))).allowed


def test_unreadable() -> None:
    """In place of a policy that cannot be evaluated the root alone may do something, and he may put another."""
    assert decided(ask("kms:PutKeyPolicy", user=None), unreadable(ACCOUNT)).allowed
    assert not decided(ask(), unreadable(ACCOUNT), own(mine("*"))).allowed


KEY_FAULTS = [
    ("", "not valid JSON"),
    ("{", "not valid JSON"),
    ('{"Statement":{}}x', "not valid JSON"),
    ('{"Statement":"\ud800"}', "not valid JSON"),
    ("[" * 32_000, "not valid JSON"),
    ('{"Statement":[NaN]}', "NaN is not valid JSON"),
    ('{"Version":' + "1" * 5000 + "}", "not valid JSON"),
    ("[]", "must be a JSON object"),
    ("{}", "Statement must be"),
    ('{"Statement":[]}', "Statement must be"),
    ('{"Statement":[{},1]}', "Statement must be"),
    ('{"statement":[]}', "'statement' is no element"),
    (document(GOOD, Version="2013-01-01"), "Version '2013-01-01' is not known"),
    (document(GOOD, Id=7), "Id must be a string"),
    ('{"Statement":{"Effect":"Allow","Effect":"Deny"}}', "twice"),
    (document({**GOOD, "Sid": 1}), "Sid must be"),
    (document({**GOOD, "Effect": "allow"}), "Effect must be Allow or Deny"),
    (document({**GOOD, "Principle": "*"}), "'Principle' is no element"),
    (document({**GOOD, "NotPrincipal": "*"}), "needs one of Principal"),
    (document(OWN), "needs one of Principal"),
    (
        document({"Effect": "Allow", "NotPrincipal": {"AWS": ALICE}, "Action": "*"}),
        "NotPrincipal goes with Effect Deny",
    ),
    (document(allow("alice")), "Principal must be"),
    (document(allow({})), "Principal must be"),
    (document(allow({"AWS": []})), "AWS must be a string or a list"),
    (document(allow({"AWS": "arn:aws:iam::111122223333:user/*"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:iam::111122223333:role/a?"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:iam::111122223333:user/a*/b"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:iam::*:root"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:iam::111122223333:group/a"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:iam::111122223333:user/a\n"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:iam::111122223333:user//"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:sts::111122223333:assumed-role/a"})), "is no principal"),
    (document(allow({"AWS": "arn:aws:sts::111122223333:assumed-role/a/*"})), "is no principal"),
    (document(allow({"AWS": "arn:aws-cn:iam::111122223333:root"})), "is no principal"),
    (document(allow({"AWS": "11112222333"})), "is no principal"),
    (document(allow({"AWS": "s3.amazonaws.com"})), "of the kind Service"),
    (document(allow({"Service": "*"})), "is no service"),
    (document(allow({"Federated": "cognito-identity.amazonaws.com"})), "of the kind 'Federated'"),
    (document({**GOOD, "NotAction": "*"}), "both Action and NotAction"),
    (document(allow("*", "Encrypt")), "'Encrypt' is no action"),
    (document(allow("*", "kms:${aws:username}")), "is no action"),
    (document(allow("*", "s3:GetObject")), "actions of kms"),
    (document(allow("*", ["kms:Encrypt", "kms:Decypt"])), "did you mean kms:Decrypt"),
    (document(allow("*", "KMS:ReEncrypt")), "did you mean kms:ReEncryptFrom or kms:ReEncryptTo"),
    (document(allow("*", "kms:Xyzzy*")), "is no action of KMS: write kms:Encrypt"),
    (document(allow("*", "kms:Encrypt") | {"Effect": "Deny"}), "denies nothing: write both"),
    (document({"Effect": "Deny", "Principal": "*", "Resource": "*"}), "denies nothing: write both"),
    (document({"Effect": "Deny", "Principal": "*", "NotAction": "kms:Decypt", "Resource": "*"}), "no action of KMS"),
    (document({"Effect": "Deny", "Principal": "*", "NotAction": "*", "Resource": "*"}), "names every action of KMS"),
    (document({"Effect": "Deny", "Principal": "*", "NotAction": "kms:*", "Resource": "*"}), "names every action"),
    (
        document({**GOOD, "Condition": {"StringEquals": {"kms:KeySpec": "a", "KMS:keyspec": "b"}}}),
        "twice, in other letter case",
    ),
    ('{"Statement":[1e400]}', "too large"),
    (document({**GOOD, "Resource": "key/1"}), "is no ARN"),
    (document({**GOOD, "Resource": "arn:aws:kms:*"}), "is no ARN"),
    (document({**GOOD, "Resource": 7}), "Resource must be a string"),
    (document({**GOOD, "Condition": []}), "Condition must be an object"),
    (document({**GOOD, "Condition": {"StringEquals": {}}}), "must be an object of condition keys"),
    (document({**GOOD, "Condition": {"Bool": {"kms:ResourceAliases": "x"}}}), "users and groups only"),
]


@pytest.mark.parametrize(("text", "sentence"), KEY_FAULTS, ids=[fault for _, fault in KEY_FAULTS])
def test_what_is_refused(text: str, sentence: str) -> None:
    """What is no key policy, or what cannot be evaluated, is refused with a sentence that says what it is."""
    with pytest.raises(MalformedPolicyDocumentException) as caught:
        read_key_policy(text, ACCOUNT)
    assert sentence in str(caught.value)


CONDITION_FAULTS = [
    ("stringequals", "kms:KeySpec", "x", "no condition operator"),
    ("NullIfExists", "kms:KeySpec", "true", "no condition operator"),
    ("ForAnyValue:Null", "kms:KeySpec", "true", "no condition operator"),
    ("ForSomeValue:StringEquals", "kms:KeySpec", "x", "no condition operator"),
    ("StringEquals", "kms:Unknown", "x", "no condition key"),
    ("StringEquals", "aws:Service", "x", "no condition key"),
    ("StringEquals", "aws:PrincipalOrgId2", "x", "no condition key"),
    ("StringEquals", "s3:VersionId", "x", "no condition key"),
    ("Bool", "aws:SourceVpce", "true", "does not fit"),
    ("StringEquals", "kms:EncryptionContext:", "x", "no condition key"),
    ("StringEquals", "kms:RecipientAttestation:PCR32", "x", "no condition key"),
    ("StringEquals", "kms:KeySpec", [], "a string or a list"),
    ("StringEquals", "kms:KeySpec", None, "a string or a list"),
    ("StringEquals", "kms:KeySpec", {"a": 1}, "a string or a list"),
    ("StringEquals", "kms:EncryptionContextKeys", "x", "several values"),
    ("NumericEquals", "kms:KeySpec", "1", "does not fit"),
    ("Bool", "kms:KeySpec", "true", "does not fit"),
    ("DateLessThan", "kms:KeySpec", "2026-01-01", "does not fit"),
    ("IpAddress", "kms:KeySpec", "10.0.0.0/8", "does not fit"),
    ("ArnLike", "kms:KeySpec", "arn:aws:iam::1:user/x", "does not fit"),
    ("Bool", "aws:SecureTransport", "yes", "true or false"),
    ("NumericEquals", "kms:RotationPeriodInDays", "many", "no number"),
    ("NumericEquals", "kms:RotationPeriodInDays", "NaN", "no number"),
    ("DateLessThan", "aws:CurrentTime", "tomorrow", "no date"),
    ("IpAddress", "aws:SourceIp", "203.0.113.0/33", "no IP address"),
    ("ArnEquals", "aws:PrincipalArn", "alice", "no ARN"),
    ("BinaryEquals", "aws:PrincipalTag/a", "!", "no base64"),
    ("Null", "kms:KeySpec", "maybe", "takes true"),
    ("StringEquals", "aws:username", "${aws:unknown}", "no condition key"),
    ("StringEquals", "aws:username", "${aws:username", "without its end"),
    ("StringEquals", "aws:username", "${}", "no policy variable"),
    ("StringEquals", "aws:username", "${aws:TagKeys}", "several values"),
]


@pytest.mark.parametrize(("operator", "key", "value", "sentence"), CONDITION_FAULTS)
def test_conditions_that_are_refused(operator: str, key: str, value: object, sentence: str) -> None:
    """A condition that cannot be evaluated makes the whole policy be refused; it is never passed over."""
    with pytest.raises(MalformedPolicyDocumentException, match="Statement 1") as caught:
        read(document(under(operator, key, value)), PolicyKind.IDENTITY, ACCOUNT)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (GOOD, "has no Principal"),
        ({"Effect": "Allow", "Action": "*"}, "needs Resource"),
        ({"Effect": "Allow", "Resource": "*"}, "needs Action"),
        ({**OWN, "Sid": "with spaces"}, "letters and digits"),
        (mine("kms:Decypt", Resource="*"), "no action of KMS"),
        ({"Effect": "Allow", "NotAction": ["s3:*", "kms:Decypt"], "Resource": "*"}, "no action of KMS"),
    ],
)
def test_policies_of_users_that_are_refused(statement: dict[str, Any], sentence: str) -> None:
    """A user's policy has no principals, and needs what a key's policy may leave out."""
    with pytest.raises(MalformedPolicyDocumentException) as caught:
        read(document(statement), PolicyKind.IDENTITY, ACCOUNT)
    assert sentence in str(caught.value)
    with pytest.raises(MalformedPolicyDocumentException, match="twice"):
        read(document({**OWN, "Sid": "a"}, {**OWN, "Sid": "a"}), PolicyKind.IDENTITY, ACCOUNT)


def test_statements_without_effect() -> None:
    """A statement of a key's policy without Resource or without Action is taken and allows nothing, as by AWS."""
    for statement in ({"Effect": "Allow", "Principal": "*", "Action": "*"}, {**GOOD}):
        statement.pop("Action", None) if "Resource" in statement else None
        assert not read_key_policy(document(statement), ACCOUNT).allows


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("s3:GetObject", set()),
        ("s3:Nothing*", set()),
        ("kms:SynchronizeMultiRegionKey", set()),
        ("kms:re?ncrypt*", {"kms:ReEncryptFrom", "kms:ReEncryptTo"}),
    ],
)
def test_actions_of_others(action: str, allowed: set[str]) -> None:
    """A policy may name actions of other services, and those of KMS that are never asked for: they allow nothing."""
    policy = read(document(mine(action, Resource="*")), PolicyKind.IDENTITY, ACCOUNT)
    assert (set(policy.allows), policy.denies, policy.without_effect) == (allowed, {}, ())


def test_stored_policies_without_effect() -> None:
    """A stored policy that could not be put any more is decided as before, and reported."""
    text = document(
        allow("*", ["kms:Encrypt", "kms:Decypt"], Resource="*"),
        {"Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt", "Sid": "no resource"},
    )
    policy = stored_key_policy(text, ACCOUNT)
    assert [sentence.partition(":")[0] for sentence in policy.without_effect] == [
        "Statement 1",
        "Statement 2 (no resource)",
    ]
    assert decided(ask(), policy).allowed
    assert list(policy.allows) == ["kms:Encrypt"]
    assert not policy.denies
    assert not stored_own_policy(document(OWN), ACCOUNT).without_effect
    with pytest.raises(MalformedPolicyDocumentException, match="no condition key"):
        stored_own_policy(document(under("StringEquals", "kms:Unknown", "x")), ACCOUNT)


def test_size() -> None:
    """32,768 bytes are accepted, one more is not, and it is bytes that count."""
    fixed = len(document(GOOD, Id=""))
    read_key_policy(document(GOOD, Id="x" * (32_768 - fixed)), ACCOUNT)
    with pytest.raises(LimitExceededException, match="bytes long; at most 32768"):
        read_key_policy(
            document(GOOD, Id="").replace('"Id": ""', '"Id": "%s"' % ("\u00e9" * ((32_768 - fixed) // 2 + 1))), ACCOUNT
        )


@given(st.text(max_size=50))
def test_random_text_is_malformed(text: str) -> None:
    """Random text is malformed and raises nothing else."""
    with pytest.raises(MalformedPolicyDocumentException):
        read_key_policy(text, ACCOUNT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["*", "Allow", "kms:*", ALICE]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Effect", "Principal", "AWS", "Action", "Resource", "Condition", "Bool", "kms:KeySpec"]),
            inner,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_read_or_malformed(statement: object) -> None:
    """Any JSON in the place of a statement is read as a policy of one statement, or refused as malformed."""
    for kind in PolicyKind:
        try:
            policy = read(json.dumps({"Statement": [statement]}), kind, ACCOUNT)
        except MalformedPolicyDocumentException:
            continue
        assert isinstance(statement, dict)
        assert (policy.denies if statement["Effect"] == "Deny" else policy.allows) != {}


# -- operators ----------------------------------------------------------------------------------------------------

TAG = "aws:PrincipalTag/t"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)

HOLDS = [
    ("StringEquals", TAG, "abc", "abc", True),
    ("StringEquals", TAG, ["x", "abc"], "abc", True),
    ("StringEquals", TAG, "ABC", "abc", False),
    ("StringEquals", TAG, "a*", "abc", False),
    ("StringNotEquals", TAG, "abc", "abc", False),
    ("StringNotEquals", TAG, ["x", "abc"], "abc", False),
    ("StringNotEquals", TAG, ["x", "y"], "abc", True),
    ("StringEqualsIgnoreCase", TAG, "ABC", "abc", True),
    ("StringNotEqualsIgnoreCase", TAG, "ABC", "abc", False),
    ("StringLike", TAG, "a*", "abc", True),
    ("StringLike", TAG, "?b?", "abc", True),
    ("StringLike", TAG, "a?", "abc", False),
    ("StringLike", TAG, "*b*c*", "a\nbc", True),
    ("StringLike", TAG, "a.c", "abc", False),
    ("StringLike", TAG, "${*}bc", "*bc", True),
    ("StringLike", TAG, "${*}bc", "abc", False),
    ("StringLike", TAG, "${$}{aws:username}", "${aws:username}", True),
    ("StringNotLike", TAG, "a*", "abc", False),
    ("StringEquals", TAG, "${aws:username}", "alice", True),
    ("StringLike", TAG, "${aws:username}-*", "alice-x", True),
    ("StringEquals", TAG, "${aws:PrincipalTag/none, 'abc'}", "abc", True),
    ("StringEquals", TAG, "${aws:PrincipalTag/none}", "abc", False),
    ("StringEqualsIgnoreCase", TAG, "${aws:username}", "ALICE", True),
    ("NumericEquals", TAG, "7", "7.0", True),
    ("NumericEquals", TAG, 7, "7", True),
    ("NumericNotEquals", TAG, "7", "8", True),
    ("NumericLessThan", TAG, "7", "7", False),
    ("NumericLessThanEquals", TAG, "7", "7", True),
    ("NumericGreaterThan", TAG, "7", "7.5", True),
    ("NumericGreaterThanEquals", TAG, "7", "6", False),
    ("NumericEquals", TAG, "7", "seven", False),
    ("NumericNotEquals", TAG, "7", "seven", True),
    ("DateEquals", TAG, "2026-06-01T12:00:00Z", "2026-06-01T14:00:00+02:00", True),
    ("DateNotEquals", TAG, "2026-06-01T12:00:00Z", "2026-06-01T12:00:00Z", False),
    ("DateLessThan", TAG, "2026-06-02", "2026-06-01", True),
    ("DateLessThanEquals", TAG, "1780315200", "2026-06-01T12:00:00Z", True),
    ("DateGreaterThan", TAG, "2026-06-01", "2026-06-01", False),
    ("DateGreaterThanEquals", TAG, "2026-06-01", "2026-06-01", True),
    ("Bool", TAG, "true", "True", True),
    ("Bool", TAG, False, "true", False),
    ("BinaryEquals", TAG, "QUJD", "QUJD", True),
    ("BinaryEquals", TAG, "QUJD", "QUJE", False),
    ("IpAddress", TAG, "10.0.0.0/8", "10.1.2.3", True),
    ("IpAddress", TAG, "10.0.0.0/8", "::ffff:10.1.2.3", True),
    ("IpAddress", TAG, "2001:db8::/32", "2001:db8::1", True),
    ("IpAddress", TAG, "2001:db8::/32", "10.1.2.3", False),
    ("NotIpAddress", TAG, "10.0.0.0/8", "10.1.2.3", False),
    ("NotIpAddress", TAG, "10.0.0.1", "10.0.0.2", True),
    ("ArnEquals", TAG, "arn:aws:iam::*:user/a*", "arn:aws:iam::1:user/alice", True),
    ("ArnLike", TAG, "arn:aws:*:user/a", "arn:aws:iam::1:user/a", None),
    ("ArnLike", TAG, "arn:aws:*::1:user/a", "arn:aws:iam::1:user/a", True),
    ("ArnLike", TAG, "arn:*:iam::1:*", "arn:aws:kms:iam::1:x", False),
    ("ArnLike", TAG, "arn:aws:iam::1:user/a", "no arn", False),
    ("ArnNotEquals", TAG, "arn:aws:iam::1:user/a", "arn:aws:iam::1:user/b", True),
    ("ArnNotLike", TAG, "arn:aws:iam::1:user/*", "arn:aws:iam::1:user/b", False),
    ("Null", TAG, "true", "x", False),
    ("Null", TAG, "false", "x", True),
    ("Null", TAG, ["true", "false"], "x", True),
    # absent
    ("StringEquals", TAG, "x", None, False),
    ("StringEqualsIfExists", TAG, "x", None, True),
    ("StringEqualsIfExists", TAG, "x", "y", False),
    ("StringNotEquals", TAG, "x", None, True),
    ("StringNotEqualsIfExists", TAG, "x", None, True),
    ("NumericLessThan", TAG, "7", None, False),
    ("NotIpAddress", TAG, "10.0.0.0/8", None, True),
    ("BoolIfExists", TAG, "true", None, True),
    ("Null", TAG, "true", None, True),
    ("Null", TAG, "false", None, False),
    ("ForAnyValue:StringEquals", TAG, "x", None, False),
    ("ForAnyValue:StringNotEquals", TAG, "x", None, False),
    ("ForAnyValue:StringEqualsIfExists", TAG, "x", None, False),  # the quantifier comes first
    ("ForAnyValue:StringNotEqualsIfExists", TAG, "x", None, False),
    ("ForAllValues:StringEqualsIfExists", TAG, "x", None, True),
    ("ForAllValues:StringEquals", TAG, "x", None, True),
    ("ForAllValues:StringEquals", TAG, "x", "y", False),
]


@pytest.mark.parametrize(("operator", "key", "operand", "value", "holds"), HOLDS)
def test_operators(operator: str, key: str, operand: object, value: str | None, holds: bool | None) -> None:  # noqa: FBT001 - a column
    """Each operator compares as IAM's guide says; where no operand can be meant the policy is refused."""
    question = ask(user_tags={} if value is None else {"t": value})
    if holds is None:
        with pytest.raises(MalformedPolicyDocumentException):
            own(under(operator, key, operand))
        return
    assert decided(question, DELEGATING, own(under(operator, key, operand))).allowed is holds


@pytest.mark.parametrize(
    ("operator", "operand", "value"),
    [
        ("NumericEquals", "7", "7".zfill),
        ("DateEquals", "7", "7".zfill),
        ("IpAddress", "::/0", lambda length: "fe80::1%".ljust(length, "e")),
    ],
)
def test_what_is_too_long_to_be_one(operator: str, operand: str, value: Callable[[int], str]) -> None:
    """A value of more than 128 characters is no number, date or address: it would be parsed again for each operand."""
    policy = own(under(operator, TAG, [operand]))
    for length, holds in ((128, True), (129, False)):
        assert decided(ask(user_tags={"t": value(length)}), DELEGATING, policy).allowed is holds


def test_every_operator_is_tried() -> None:
    """The table above has every operator."""
    assert {each[0] for each in HOLDS} >= set(OPERATORS)


@pytest.mark.parametrize(
    ("operator", "operands", "keys", "holds"),
    [
        ("ForAnyValue:StringEquals", ["a"], ["a", "b"], True),
        ("ForAnyValue:StringEquals", ["c"], ["a", "b"], False),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "b"], True),
        ("ForAllValues:StringEquals", ["a"], ["a", "b"], False),
        ("ForAnyValue:StringNotEquals", ["a"], ["a", "b"], True),
        ("ForAnyValue:StringNotEquals", ["a", "b"], ["a", "b"], False),
        ("ForAllValues:StringNotEquals", ["c"], ["a", "b"], True),
        ("ForAllValues:StringNotLike", ["b*"], ["a", "b"], False),
        ("ForAllValues:StringEquals", ["a"], [], True),
        ("ForAnyValue:StringEquals", ["a"], [], False),
        ("Null", ["true"], [], True),
        ("Null", ["false"], ["a"], True),
    ],
)
def test_several_values(operator: str, operands: list[str], keys: list[str], holds: bool) -> None:  # noqa: FBT001 - a column
    """ForAnyValue wants one value that holds, ForAllValues that all do."""
    request = EncryptRequest(key_id="k", plaintext=b"p", encryption_context=dict.fromkeys(keys, "v"))
    policy = own(under(operator, "kms:EncryptionContextKeys", operands))
    assert decided(ask(request=request), DELEGATING, policy).allowed is holds


def test_variables_only_since_2012() -> None:
    """In a document of the older version, or of none, a variable is plain text."""
    statement = under("StringEquals", "aws:username", "${aws:username}")
    for version in ({"Version": "2008-10-17"}, {}):
        text = json.dumps({"Statement": statement} | version)
        assert read(text, PolicyKind.IDENTITY, ACCOUNT).allows["kms:Encrypt"][0].fits(ask()) is False
    assert read(document(statement), PolicyKind.IDENTITY, ACCOUNT).allows["kms:Encrypt"][0].fits(ask())


def test_variables_in_resources() -> None:
    """A variable in a resource is the caller's; a colon in its name divides no ARN, and its value has no wildcards."""
    policy = own(mine(Resource="arn:aws:kms:*:*:alias/${aws:username}-*"))
    question = ask("kms:CreateAlias", about_key=False, resource="arn:aws:kms:r:1:alias/alice-x")
    assert decided(question, None, policy).allowed
    star = ask("kms:CreateAlias", about_key=False, user="*", resource="arn:aws:kms:r:1:alias/alice-x")
    assert not decided(star, None, policy).allowed


def test_conditions_are_joined() -> None:
    """All operators and all keys of a Condition must hold."""
    both = {"StringEquals": {"aws:username": "alice", TAG: "x"}, "Bool": {"aws:SecureTransport": "true"}}
    policy = own(OWN | {"Condition": both})
    assert decided(ask(user_tags={"t": "x"}), DELEGATING, policy).allowed
    assert not decided(ask(user_tags={"t": "y"}), DELEGATING, policy).allowed
    assert not decided(ask(user_tags={"t": "x"}, secure_transport=False), DELEGATING, policy).allowed


@pytest.mark.parametrize(
    ("action", "named"),
    [
        ("kms:encrypt", True),
        ("KMS:Enc*", True),
        ("*", True),
        ("kms:?ncrypt", True),
        ("kms:Encryp", None),
        ("kms:D*", False),
        ("kms:En.*", None),
    ],
)
def test_actions(action: str, named: bool | None) -> None:  # noqa: FBT001 - a column
    """Actions are named in any letter case, with wildcards."""
    if named is None:
        with pytest.raises(MalformedPolicyDocumentException):
            own(mine(action))
        return
    assert decided(ask(), DELEGATING, own(mine(action))).allowed is named
    inverted = own({"Effect": "Allow", "NotAction": action})
    assert decided(ask(), DELEGATING, inverted).allowed is not named


def test_resources_of_a_key_policy() -> None:
    """A key policy's statement for another key's ARN does not hold for this one, and NotResource turns that round."""
    other = "arn:aws:kms:eu-central-1:111122223333:key/other"
    assert not decided(ask(), key_policy(allow("*", Resource=other))).allowed
    turned = {"Effect": "Allow", "Principal": "*", "Action": "*", "NotResource": other}
    assert decided(ask(), read(document(turned), PolicyKind.KEY, ACCOUNT)).allowed


def test_other_services_in_a_users_policy() -> None:
    """A user's policy may speak of other services; that allows nothing here."""
    assert not decided(ask(), DELEGATING, own(mine(["s3:*", "iam:PassRole"]))).allowed


def test_no_pattern_takes_long() -> None:
    """A pattern with many stars is refused at once by a text that nearly fits."""
    policy = own(under("StringLike", TAG, "*a" * 60 + "b"))
    begun = time.process_time()
    assert not decided(ask(user_tags={"t": "a" * 6000}), DELEGATING, policy).allowed
    assert time.process_time() - begun < 5  # without its cure this would take for ever


@pytest.mark.parametrize(
    "statement",
    [
        under("StringEquals", "aws:username", "${" * 100_000),
        mine(Resource="arn:aws:kms:a:b:c:" + "${" * 100_000),
        mine(NotResource=["arn:aws:kms:a:b:c:d", "arn:${" * 100_000]),
    ],
    ids=["operand", "resource", "other-resource"],
)
def test_no_variable_takes_long(statement: dict[str, Any]) -> None:
    """Variables that begin without end are refused at once, however many."""
    begun = time.process_time()
    with pytest.raises(MalformedPolicyDocumentException):
        own(statement)
    assert time.process_time() - begun < 20  # by a regular expression this takes minutes


@pytest.mark.parametrize(
    "name", [*condition_keys.NAMES, "kms:EncryptionContext:x", "aws:ResourceTag/x", "aws:RequestTag/x"]
)
def test_every_condition_key_has_a_value_or_none(name: str) -> None:
    """Every condition key can be asked for in every operation, in any letter case, with and without a key."""
    key = condition_keys.find(name.upper())
    for question in (ask(), ask("kms:CreateKey", about_key=False), ask("kms:CreateGrant", user=None)):
        value = key.value(question)
        assert value is None or key.several is isinstance(value, list)


# -- keys that differ in letter case only ---------------------------------------------------------------------------

LEVEL = "kms:EncryptionContext:Level"
CLASHES = [{"level": "secret", "LEVEL": "x"}, {"Level": "x", "level": "secret"}, {"LEVEL": "secret", "level": "x"}]


def with_context(context: dict[str, str]) -> EncryptRequest:
    """An Encrypt with an encryption context."""
    return EncryptRequest(key_id="k", plaintext=b"p", encryption_context=context)


@pytest.mark.parametrize("context", CLASHES)
@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("StringEquals", "secret"),
        ("StringEquals", "another"),
        ("StringNotEquals", "x"),
        ("StringLikeIfExists", "sec*"),
        ("ForAllValues:StringEquals", "secret"),
        ("Null", "true"),
        ("Null", "false"),
    ],
)
def test_a_clash_is_denied(context: dict[str, str], operator: str, value: str) -> None:
    """A Deny that asks for a key of the encryption context holds if it is there twice, in two letter cases."""
    condition = {"Condition": {operator: {LEVEL: value}}}
    question = ask(request=with_context(context))
    assert decided(question, DELEGATING, own(OWN)).allowed
    assert not decided(question, DELEGATING, own(OWN, mine("*", "Deny", **condition))).allowed
    denying = key_policy(allow("*"), {"Effect": "Deny", "Principal": "*", "Action": "*", **condition})
    assert not decided(question, denying).allowed


@pytest.mark.parametrize(
    ("operator", "value", "allowed"),
    [
        ("StringEquals", ["secret", "x"], True),
        ("StringEquals", "secret", False),
        ("StringEquals", "x", False),
        ("StringNotEquals", "y", True),
        ("StringNotEquals", "x", False),
        ("StringEqualsIfExists", "x", False),
        ("ForAnyValue:StringEquals", "x", False),
        ("Null", "false", True),
        ("Null", "true", False),
    ],
)
@pytest.mark.parametrize("context", CLASHES)
def test_all_of_a_clash_is_allowed(context: dict[str, str], operator: str, value: object, *, allowed: bool) -> None:
    """An Allow that asks for such a key holds only if both values fit."""
    policy = own(under(operator, LEVEL, value))
    assert decided(ask(request=with_context(context)), DELEGATING, policy).allowed is allowed


def test_clashes_of_tags() -> None:
    """What holds for keys of an encryption context holds for those of tags, and for policy variables."""
    two = {"team": "red", "TEAM": "blue"}
    for name, facts in (("aws:PrincipalTag/Team", {"user_tags": two}), ("aws:ResourceTag/Team", {"tags": two})):
        question = ask(**facts)
        assert not decided(question, DELEGATING, own(under("StringEquals", name, "red"))).allowed
        assert decided(question, DELEGATING, own(under("StringEquals", name, ["red", "blue"]))).allowed
        deny = under("StringEquals", name, "none") | {"Effect": "Deny"}
        assert not decided(question, DELEGATING, own(OWN, deny)).allowed
        for operator in ("StringEquals", "StringNotEquals"):
            by_variable = under(operator, "aws:username", f"${{{name}}}")
            assert not decided(question, DELEGATING, own(by_variable)).allowed
            assert not decided(question, DELEGATING, own(OWN, by_variable | {"Effect": "Deny"})).allowed
        for element in ("Resource", "NotResource"):
            by_resource = {"Effect": "Allow", "Action": "*", element: f"arn:aws:kms:*:*:key/${{{name}}}"}
            for statements in ([by_resource], [OWN, by_resource | {"Effect": "Deny"}]):
                policy = OwnPolicy("p", read(document(*statements), PolicyKind.IDENTITY, ACCOUNT))
                assert not decided(question, DELEGATING, [policy]).allowed


PAIRS = st.dictionaries(
    st.sampled_from(["level", "Level", "LEVEL", "l\u00e9vel", "L\u00c9VEL", "other"]),
    st.sampled_from(["secret", "public"]),
)


@given(PAIRS, st.sampled_from(["kms:EncryptionContext:level", "kms:encryptioncontext:L\u00e9VEL"]), st.data())
def test_no_other_letter_case_helps(context: dict[str, str], name: str, data: st.DataObject) -> None:
    """Writing a key of the context in another letter case, or twice, allows nothing that was denied."""
    policy = own(OWN, under("StringEquals", name, "secret") | {"Effect": "Deny"})
    before = decided(ask(request=with_context(context)), DELEGATING, policy)
    spelled_anew = {data.draw(st.sampled_from([key, key.upper(), key.lower()])): each for key, each in context.items()}
    after = decided(ask(request=with_context({**context, **spelled_anew})), DELEGATING, policy)
    assert before.allowed or not after.allowed


# -- users who are deleted ----------------------------------------------------------------------------------------


def test_a_deleted_user_is_nobody() -> None:
    """In the place of a deleted user stands an id that no other user ever is; conditions stay as they are."""
    text = document(
        allow({"AWS": [ALICE, BOB]}, Resource="*", Condition={"ArnEquals": {"aws:PrincipalArn": ALICE}}),
        {"Effect": "Deny", "NotPrincipal": {"AWS": ALICE}, "Action": "*", "Resource": "*"},
    )
    gone = f"AIDA{'A' * 17}"
    changed = replace_principal(text, ALICE, gone)
    assert changed is not None
    statements = decode(changed)["Statement"]
    assert statements[0]["Principal"] == {"AWS": [gone, BOB]}
    assert statements[1]["NotPrincipal"] == {"AWS": [gone]}
    assert statements[0]["Condition"]["ArnEquals"]["aws:PrincipalArn"] == ALICE
    policy = read_key_policy(changed, ACCOUNT)
    assert policy.users == {BOB, gone}
    assert not decided(ask(), policy).allowed
    assert replace_principal(text, user_arn(ACCOUNT, "carol"), gone) is None


def test_a_unique_id_is_a_principal() -> None:
    """A user is named by the unique id as by the ARN, in Allow, Deny and NotPrincipal."""
    alice = {"AWS": user_id_of("alice")}
    named = key_policy(allow(alice))
    assert decided(ask(), named).allowed
    assert not decided(ask(user="bob"), named).allowed
    spared = key_policy(allow("*"), {"Effect": "Deny", "NotPrincipal": alice, "Action": "*"})
    assert decided(ask(), spared).allowed
    assert not decided(ask(user="bob"), spared).allowed


def test_a_long_policy_stays_a_policy() -> None:
    """A policy of the greatest length stays within it when a principal in it is replaced, whatever its characters."""
    text = document(allow({"AWS": [ROOT, ALICE]}, Resource="*"), Id="").replace('"Id": ""', '"Id": "%s"')
    text %= "\u00e9" * ((32_768 - len(text) + 2) // 2)
    read_key_policy(text, ACCOUNT)
    changed = replace_principal(text, ALICE, user_id_of("alice"))
    assert changed is not None
    assert len(changed.encode()) <= 32_768
    assert read_key_policy(changed, ACCOUNT).users == {user_id_of("alice")}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Statement":{}}', '{"Statement":[1,{"Principal":"*"}]}'])
def test_what_names_nobody_is_not_rewritten(text: str) -> None:
    """A text that is not a policy, or that names no user, is unchanged when a user is deleted."""
    assert replace_principal(text, ALICE, user_id_of("alice")) is None


def test_what_is_not_understood_is_rewritten() -> None:
    """A policy with elements of a later version keeps them, and loses the principal all the same."""
    text = '{"Statement":[7,{"Principal":{"AWS":"ALICE","New":[1]},"Later":{}}],"More":"\\ud800"}'
    text = text.replace("ALICE", ALICE)
    changed = replace_principal(text, ALICE, user_id_of("alice"))
    assert changed is not None
    assert json.loads(changed) == json.loads(text.replace(ALICE, user_id_of("alice"))) | {
        "Statement": [7, {"Principal": {"AWS": [user_id_of("alice")], "New": [1]}, "Later": {}}]
    }


# -- spelling -----------------------------------------------------------------------------------------------------


def spelled(value: object, draw: Callable[[Any], Any]) -> str:
    """JSON of a value in some other spelling: escapes, blanks, the order of an object's members."""
    blank = draw(st.sampled_from(["", " ", "\n\t"]))
    if isinstance(value, dict):
        members = draw(st.permutations(list(value.items())))
        members_in_json = [f"{spelled(name, draw)}{blank}:{spelled(each, draw)}" for name, each in members]
        return f"{{{blank}{f'{blank},'.join(members_in_json)}{blank}}}"
    if isinstance(value, list):
        return f"[{blank}{f'{blank},'.join(spelled(each, draw) for each in value)}]"
    if isinstance(value, str):
        return f'"{"".join(draw(st.sampled_from(spellings_of(each))) for each in value)}"'
    return json.dumps(value)


def spellings_of(character: str) -> list[str]:
    """How a character can stand in a string of JSON."""
    escaped = [f"\\u{ord(character):04x}", f"\\u{ord(character):04X}"]
    return [character if character not in '"\\' else f"\\{character}", *escaped, *(["\\/"] * (character == "/"))]


SPELLED = [
    allow({"AWS": [ALICE, BOB]}, ["kms:Encrypt", "kms:D*"]),
    allow({"AWS": ROOT}, Condition={"StringEquals": {"aws:username": "alice"}}),
    {"Effect": "Deny", "NotPrincipal": {"AWS": ALICE}, "Action": "kms:Encrypt", "Resource": "*"},
    {"Effect": "Deny", "Principal": {"AWS": BOB}, "NotAction": "kms:Decrypt", "Resource": "*"},
]


@given(st.lists(st.sampled_from(SPELLED), min_size=1, max_size=3, unique_by=id), st.data())
def test_spelling_decides_nothing(statements: list[dict[str, Any]], data: st.DataObject) -> None:
    """However the JSON of a policy is spelled, it is decided alike, and a deleted user leaves nothing in it."""
    whole = json.loads(document(*statements))
    text = spelled(whole, data.draw)
    assert decode(text) == whole
    policy, again = (read_key_policy(each, ACCOUNT) for each in (json.dumps(whole), text))
    for user in ("alice", "bob", "carol", None):
        for action in ("kms:Encrypt", "kms:Decrypt"):
            question = ask(action, user=user, operation=Operation(action[4:]), request=EncryptRequest())
            assert decided(question, policy, own(mine("*"))) == decided(question, again, own(mine("*")))
    gone = user_id_of("alice")
    replaced = replace_principal(text, ALICE, gone)
    named = ALICE in policy.users
    assert (replaced is not None) is named
    if replaced is not None:
        assert read_key_policy(replaced, ACCOUNT).users == policy.users - {ALICE} | {gone}
