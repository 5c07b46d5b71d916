"""Key policies as people publish them: each is read, and decided rightly for callers of the account."""

import json
from typing import Any

import pytest
from published_policies import (
    ENDPOINT,
    PUBLISHED,
    Statement,
    endpoint_only,
    owner,
    performance_insights,
    statement,
    text,
)
from questions import ACCOUNT, Document, ask, decided, mine, own

from hsmkms.model.crypto import DecryptRequest, EncryptRequest
from hsmkms.model.enums import Operation
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.rules.iam.access import Outcome
from hsmkms.rules.iam.documents import Policy
from hsmkms.rules.iam.policies import read_key_policy
from hsmkms.rules.iam.question import Question

EVERYTHING = own(mine("kms:*"))


def published(name: str) -> Policy:
    """One of them, read."""
    return read_key_policy(text(PUBLISHED[name](ACCOUNT)), ACCOUNT)


def of(*statements: Statement) -> Policy:
    """A policy of these statements and the account's, read."""
    return read_key_policy(text([owner(ACCOUNT), *statements]), ACCOUNT)


def decrypt(user: str | None = "alice", **context: str) -> Question:
    """Whether a user may decrypt, with an encryption context."""
    return ask("kms:Decrypt", user=user, request=DecryptRequest(ciphertext_blob=b"c", encryption_context=context))


def encrypt(user: str | None = "alice", **context: str) -> Question:
    """Whether a user may encrypt, with an encryption context."""
    return ask(user=user, request=EncryptRequest(key_id="k", plaintext=b"p", encryption_context=context))


def hand_on(user: str) -> Question:
    """Whether a user may create a grant."""
    return ask("kms:CreateGrant", user=user, request=CreateGrantRequest(key_id="k", operations=["Decrypt"]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_nobody_else_gets_anything(name: str) -> None:
    """Whom none of them names, and who has no policy, may do nothing; the root may by the account's statement alone."""
    policy = published(name)
    for operation in (Operation.DECRYPT, Operation.SIGN, Operation.CREATE_GRANT, Operation.DISABLE_KEY):
        question = ask(f"kms:{operation}", operation=operation, user="carol", request=DecryptRequest())
        assert not decided(question, policy).allowed
        question = ask(f"kms:{operation}", operation=operation, user=None, request=DecryptRequest())
        decision = decided(question, policy)
        assert not decision.allowed or decision.delegated_by in (owner(ACCOUNT)["Sid"], "Default")


def test_module_of_terraform() -> None:
    """The user among roles administers and uses the key; grants that only services create apply to no caller."""
    policy = published("terraform_module")
    for action in ("kms:Decrypt", "kms:DisableKey", "kms:PutKeyPolicy", "kms:ReEncryptFrom"):
        operation = Operation.RE_ENCRYPT if "ReEncrypt" in action else Operation(action.removeprefix("kms:"))
        assert decided(ask(action, operation=operation, request=DecryptRequest()), policy).allowed
    assert not decided(ask("kms:Sign", request=DecryptRequest()), policy).allowed
    # ``kms:Create*`` of administrators includes CreateGrant: as AWS says, an administrator can pass permissions on.
    assert decided(hand_on("alice"), policy).statement == "KeyAdministration"
    assert not decided(hand_on("bob"), policy).allowed
    assert len(policy.roles) == 2


def test_cloudwatch_logs() -> None:
    """The service's statement applies to no caller, also with a log group in the encryption context."""
    policy = published("cloudwatch_logs")
    group = {"aws:logs:arn": f"arn:aws:logs:eu-central-1:{ACCOUNT}:log-group:app"}
    assert not decided(decrypt(**group), policy).allowed
    assert decided(decrypt(**group), policy, EVERYTHING).allowed


def test_parameter_store() -> None:
    """No caller comes through a service, so ``*`` allows none; the account's own policies do."""
    policy = published("parameter_store")
    assert not decided(encrypt(), policy).allowed
    assert decided(encrypt(), policy, EVERYTHING).allowed


@pytest.mark.parametrize(
    ("context", "allowed"),
    [
        ({"aws:pi:service": "rds", "service": "pi", "aws:rds:db-id": "db-2"}, True),
        ({"AWS:PI:service": "rds", "Service": "pi", "aws:rds:db-id": "db-2", "more": "x"}, True),
        ({"aws:pi:service": "rds", "service": "pi", "aws:rds:db-id": "db-3"}, False),
        ({"aws:pi:service": "rds", "service": "pi"}, False),
        ({}, False),
    ],
)
def test_performance_insights(context: dict[str, str], *, allowed: bool) -> None:
    """All pairs of the context must be there and fit; no caller comes through the service alone."""
    open_to_all = read_key_policy(text(performance_insights(ACCOUNT, via_service=False)), ACCOUNT)
    assert decided(decrypt(**context), open_to_all).allowed is allowed
    assert not decided(decrypt("bob", **context), open_to_all).allowed
    assert not decided(decrypt(**context), published("performance_insights")).allowed


def test_node_roles() -> None:
    """A user among the roles may use the key and hand nothing on; a user of a role's name is not the role."""
    policy = published("node_roles")
    assert decided(decrypt(), policy).allowed
    assert not decided(hand_on("alice"), policy).allowed
    assert not decided(decrypt("eksctl-cluster-nodegroup-NodeInstanceRole-1ABC"), policy).allowed
    assert not decided(decrypt("i-0123456789abcdef0"), policy).allowed


def test_all_but_some() -> None:
    """A caller that is not named is denied, the root too, whatever allows it."""
    policy = published("all_but_some")
    assert decided(decrypt(), policy, EVERYTHING).allowed
    for user in ("bob", None):
        assert decided(decrypt(user), policy, EVERYTHING).outcome is Outcome.EXPLICIT_DENY
        assert decided(encrypt(user), policy, EVERYTHING).allowed


@pytest.mark.parametrize("operator", ["StringNotEquals", "StringNotEqualsIfExists", "StringNotLike"])
def test_endpoint_only(operator: str) -> None:
    """No caller comes through an endpoint of a VPC, so a Deny for all others denies all, as IAM says."""
    policy = read_key_policy(text(endpoint_only(ACCOUNT, operator)), ACCOUNT)
    for user in ("alice", None):
        assert decided(decrypt(user), policy, EVERYTHING).outcome is Outcome.EXPLICIT_DENY
    assert f"no request here has aws:SourceVpce: {operator} always holds" in policy.notes[0]


def test_endpoint_if_there_is_one() -> None:
    """With Null the same Deny is for callers that come through an endpoint, of which there are none."""
    condition = {"StringNotEquals": {"aws:SourceVpce": ENDPOINT}, "Null": {"aws:SourceVpce": "false"}}
    policy = of(statement("endpoint", "*", "kms:*", condition, "Deny"))
    assert decided(decrypt(), policy, EVERYTHING).allowed


def whole(**changes: Any) -> Document:  # noqa: ANN401 - JSON
    """A policy's document with some elements changed."""
    return {"Version": "2012-10-17", "Statement": [owner(ACCOUNT)], **changes}


@pytest.mark.parametrize(
    "document",
    [
        whole(),
        whole(Version="2008-10-17"),
        {"Statement": [owner(ACCOUNT)]},
        whole(Id="with spaces, and: signs"),
        whole(Statement=owner(ACCOUNT)),
        whole(Statement=[owner(ACCOUNT), owner(ACCOUNT)]),
        whole(Statement=[owner(ACCOUNT) | {"Sid": ""}, owner(ACCOUNT) | {"Sid": ""}]),
        whole(Statement=[owner(ACCOUNT) | {"Sid": "Allow use of the key, please"}]),
    ],
)
def test_forms_of_documents(document: Document) -> None:
    """Older versions, none, an Id, one statement, and Sids with spaces or there twice are taken in a key policy."""
    for mark in ("", "\ufeff"):
        policy = read_key_policy(mark + json.dumps(document), ACCOUNT)
        assert decided(decrypt(), policy, EVERYTHING).allowed
        assert not policy.notes
