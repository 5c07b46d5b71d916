"""Principals: their forms, which of them can call here, and that the others match no caller."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from questions import ACCOUNT, ALICE, ROOT, allow, ask, decided, deny, key_policy, mine, own

from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.ids import user_arn
from hsmkms.rules.iam.principals import Form, is_path, is_service, parse, parse_arn, user_of

OTHER = "999999999999"
FORMS = [
    (ROOT, Form.ACCOUNT, True, False),
    (ACCOUNT, Form.ACCOUNT, True, False),
    (ALICE, Form.USER, True, True),
    (f"arn:aws:iam::{ACCOUNT}:user/division/team.1/alice", Form.USER, True, True),
    (f"AIDA{'A' * 17}", Form.USER_ID, True, True),
    (f"arn:aws:iam::{OTHER}:root", Form.ACCOUNT, False, False),
    (OTHER, Form.ACCOUNT, False, False),
    (f"arn:aws:iam::{OTHER}:user/alice", Form.USER, False, False),
    (f"arn:aws:iam::{OTHER}:role/alice", Form.ROLE, False, False),
    (f"arn:aws:iam::{ACCOUNT}:role/alice", Form.ROLE, False, True),
    (f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/s3.amazonaws.com/Some_Role", Form.ROLE, False, True),
    (f"arn:aws:iam::{ACCOUNT}:role/a:b/alice", Form.ROLE, False, True),
    (f"arn:aws:sts::{ACCOUNT}:assumed-role/alice/alice", Form.ROLE, False, True),
    (f"arn:aws:sts::{OTHER}:assumed-role/alice/alice@example.com", Form.ROLE, False, False),
    (f"arn:aws:sts::{ACCOUNT}:federated-user/alice", Form.FEDERATED, False, False),
    (f"AROA{'A' * 17}", Form.ROLE, False, True),
]
STRANGERS = [{"AWS": text} for text, _, can_call, _ in FORMS if not can_call] + [
    {"Service": "logs.eu-central-1.amazonaws.com"},
    {"Service": ["ec2.amazonaws.com", "s3.amazonaws.com.cn"], "AWS": OTHER},
]


@pytest.mark.parametrize(("text", "form", "can_call", "must_exist"), FORMS)
def test_forms(text: str, form: Form, can_call: bool, must_exist: bool) -> None:  # noqa: FBT001 - columns
    """Each form is known, with who can call here and who has to exist; grants take the ARNs alone."""
    parsed = parse(text)
    assert parsed is not None
    assert (parsed.form, parsed.can_call(ACCOUNT), parsed.must_exist(ACCOUNT)) == (form, can_call, must_exist)
    assert parse_arn(text) == (parsed if text.startswith("arn:") else None)


@pytest.mark.parametrize("principal", STRANGERS, ids=str)
def test_who_cannot_call_matches_nobody(principal: dict[str, object]) -> None:
    """A principal that cannot call allows and denies no caller, and exempts none under NotPrincipal."""
    policies = own(mine("kms:*"))
    for user in ("alice", None):
        question = ask(user=user)
        assert not decided(question, key_policy(allow(principal)), policies).allowed
        assert decided(question, key_policy(allow({"AWS": ROOT}), deny(principal)), policies).allowed
        all_others = {"Effect": "Deny", "NotPrincipal": principal, "Action": "*"}
        assert not decided(question, key_policy(allow("*"), all_others), policies).allowed
    assert key_policy(allow(principal)).notes


def test_digits_are_the_account() -> None:
    """The account's twelve digits mean what the ARN of its root means."""
    for principal in (ROOT, ACCOUNT):
        policy = key_policy(allow({"AWS": principal}))
        assert not decided(ask(), policy).allowed
        assert decided(ask(), policy, own(mine("kms:*"))).allowed
        assert not policy.notes


def test_the_path_is_part_of_the_principal() -> None:
    """A statement for one path is not for a user of the same name under another, or under none."""
    elsewhere = user_arn(ACCOUNT, "alice", "/division/")
    assert user_of(elsewhere) == ("/division/", "alice")
    assert user_of(ALICE) == ("/", "alice")
    policy = key_policy(allow({"AWS": elsewhere}))
    assert policy.users == {elsewhere}
    assert not decided(ask(), policy).allowed
    question = ask()
    identity = question.identity
    question.identity = type(identity)(arn=elsewhere, user_name="alice", user_id=identity.user_id, tags={})
    assert decided(question, policy).allowed
    assert not decided(question, key_policy(allow({"AWS": ALICE}))).allowed


def test_any_principal_with_a_condition_that_never_holds() -> None:
    """``*`` under conditions on keys that no request has allows no caller."""
    for condition in (
        {"StringEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5"}},
        {"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": "o-a1b2c3d4e5/*"}},
        {"StringLike": {"aws:PrincipalOrgPaths": "*"}},
        {"ArnLike": {"aws:SourceArn": "*"}},
        {"Bool": {"aws:MultiFactorAuthPresent": "true"}},
        {"IpAddress": {"aws:VpcSourceIp": "0.0.0.0/0"}},
        {"Null": {"kms:ViaService": "false"}},
    ):
        policy = key_policy(allow("*", Condition=condition))
        assert not decided(ask(), policy, own(mine("kms:*"))).allowed
        assert "never holds" in policy.notes[0]


NEVER = [
    allow({"AWS": f"arn:aws:iam::{ACCOUNT}:role/alice"}, Resource="*"),
    allow({"AWS": [OTHER], "Service": "s3.amazonaws.com"}, Resource="*"),
    deny({"AWS": f"arn:aws:sts::{ACCOUNT}:assumed-role/alice/alice"}, Resource="*"),
    allow("*", Resource="*", Condition={"StringLike": {"aws:PrincipalOrgID": "*"}}),
    deny("*", Resource="*", Condition={"StringEquals": {"aws:SourceVpce": "vpce-1"}}),
]
SOME = [
    allow({"AWS": ALICE}, "kms:Encrypt", Resource="*"),
    allow({"AWS": ROOT}, Resource="*"),
    allow("*", "kms:Decrypt", Resource="*"),
    deny({"AWS": ALICE}, "kms:Decrypt", Resource="*"),
    {"Effect": "Deny", "NotPrincipal": {"AWS": ALICE}, "Action": "kms:Encrypt", "Resource": "*"},
]


@given(st.lists(st.sampled_from(SOME), min_size=1, max_size=4), st.lists(st.sampled_from(NEVER), min_size=1), st.data())
def test_what_never_fits_changes_nothing(
    some: list[dict[str, Any]], never: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Statements for who cannot call, or under what no request has, change no decision, wherever they stand."""
    mixed = data.draw(st.permutations([*some, *never]))
    policies = data.draw(st.sampled_from([[], own(mine("kms:*"))]))
    for user in ("alice", "bob", None):
        for action in ("kms:Encrypt", "kms:Decrypt"):
            question = ask(action, user=user, request=EncryptRequest(key_id="k", plaintext=b"p"))
            before = decided(question, key_policy(*some), policies)
            assert decided(question, key_policy(*mixed), policies).outcome is before.outcome


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("s3.amazonaws.com", True),
        ("logs.eu-central-1.amazonaws.com", True),
        ("ec2.amazonaws.com.cn", True),
        ("events.amazon.com", True),
        ("*.amazonaws.com", False),
        ("s3.amazonaws.com\n", False),
        ("amazonaws.com", False),
        ("s3.example.com", False),
        ("S3.amazonaws.com", False),
    ],
)
def test_services(name: str, known: bool) -> None:  # noqa: FBT001 - a column
    """Services are named in lower case, under the domains of AWS."""
    assert is_service(name) is known


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("/", True),
        ("/division/", True),
        ("/a/b.c/d-e_f/", True),
        (f"/{'a' * 510}/", True),
        (f"/{'a' * 511}/", False),
        ("", False),
        ("division", False),
        ("/division", False),
        ("//", False),
        ("/a*/", False),
        ("/a:root/", False),
        ("/a b/", False),
        ("/a/\n", False),
    ],
)
def test_paths_of_users(path: str, taken: bool) -> None:  # noqa: FBT001 - a column
    """A path has slashes at both ends and characters of names between slashes."""
    assert is_path(path) is taken


@given(st.text(st.sampled_from("arnwsiamtus:/0123456789-*?rolesg\n"), max_size=60))
def test_any_text_has_a_form_or_none(text: str) -> None:
    """Whatever the text is, it is read or not, and what can call is the account, or a user of it by a whole ARN."""
    parsed = parse(text)
    if parsed is not None and parsed.can_call(ACCOUNT):
        assert text in (ACCOUNT, ROOT) or text.startswith((f"arn:aws:iam::{ACCOUNT}:user/", "AIDA"))


def test_no_principal_takes_long() -> None:
    """A principal with many slashes is refused at once."""
    begun = time.process_time()
    assert parse(f"arn:aws:iam::{ACCOUNT}:role{'/a' * 20_000}*") is None
    assert time.process_time() - begun < 5  # without its cure this would take for ever
