"""Questions to test access with: a caller, a request and a key, each with what the test wants different."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from hsmkms.model.caller import Caller
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.enums import KeyManager, KeySpec, KeyState, KeyUsage, Operation, Origin
from hsmkms.model.ids import derived_user_id, root_arn, user_arn
from hsmkms.model.records import GrantRecord, KeyRecord
from hsmkms.rules.iam.access import Decision, OwnPolicy, decide
from hsmkms.rules.iam.documents import Policy, PolicyKind, read
from hsmkms.rules.iam.question import Identity, Question

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
BASE: dict[str, Any] = {
    "key_id": KEY_ID,
    "region": "eu-central-1",
    "arn": f"arn:aws:kms:eu-central-1:111122223333:key/{KEY_ID}",
    "spec": KeySpec.SYMMETRIC_DEFAULT,
    "usage": KeyUsage.ENCRYPT_DECRYPT,
    "origin": Origin.AWS_KMS,
    "manager": KeyManager.CUSTOMER,
    "multi_region": False,
    "state": KeyState.ENABLED,
    "description": "",
    "policy": "{}",
    "creation_date": datetime(2026, 1, 1, tzinfo=UTC),
    "version": 1,
}
ACCOUNT = "111122223333"
ROOT = root_arn(ACCOUNT)
ALICE = user_arn(ACCOUNT, "alice")
BOB = user_arn(ACCOUNT, "bob")
REGION = "eu-central-1"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEY_ARN: str = BASE["arn"]

Document = dict[str, Any]


class View(Struct, frozen=True):
    """A key with its tags and aliases, all at hand."""

    record: KeyRecord
    held_tags: Mapping[str, str]
    held_aliases: Sequence[str]

    def tags(self) -> Mapping[str, str]:
        """The tags."""
        return self.held_tags

    def aliases(self) -> Sequence[str]:
        """The aliases."""
        return self.held_aliases


def user_id_of(user: str | None) -> str:
    """The unique id of a user in these tests; the account is the root's."""
    return ACCOUNT if user is None else derived_user_id(user, NOW)


def ask(  # noqa: PLR0913 - each has a default, and a test names the ones that it is about
    action: str = "kms:Encrypt",
    *,
    operation: Operation | None = None,
    request: Struct | None = None,
    user: str | None = "alice",
    user_tags: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    aliases: Sequence[str] = (),
    key: KeyRecord | None = None,
    about_key: bool = True,
    before: Sequence[str] = (),
    resource: str | None = None,
    now: datetime = NOW,
    **caller: Any,  # noqa: ANN401 - members of Caller
) -> Question:
    """A question: without arguments, whether alice may encrypt with the key."""
    arn = ROOT if user is None else user_arn(ACCOUNT, user)
    record = (key or KeyRecord(**BASE)) if about_key else None
    done = operation or Operation(action.removeprefix("kms:"))
    return Question(
        caller=Caller(principal=arn, region=REGION, **caller),
        identity=Identity(arn=arn, user_name=user, user_id=user_id_of(user), tags=user_tags or {}),
        operation=done,
        request=EncryptRequest(key_id="k", plaintext=b"p") if request is None and action == "kms:Encrypt" else request,
        account=ACCOUNT,
        instant=now,
        action=action,
        resource=resource or (record.arn if record else "*"),
        about_key=about_key,
        key=View(record, tags or {}, aliases) if record else None,
        before=before,
    )


def document(*statements: Document, **more: Any) -> str:  # noqa: ANN401 - JSON
    """A policy's text."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)} | more)


def key_policy(*statements: Document) -> Policy:
    """A key's policy, read; statements may leave out Resource."""
    return read(document(*({"Resource": "*"} | statement for statement in statements)), PolicyKind.KEY, ACCOUNT)


def own(*statements: Document) -> list[OwnPolicy]:
    """A user's policies, read: one with these statements, which may leave out Resource."""
    text = document(*({"Resource": "*"} | statement for statement in statements))
    return [OwnPolicy("user policy p", read(text, PolicyKind.IDENTITY, ACCOUNT))]


def allow(principal: object, action: object = "kms:*", **more: Any) -> Document:  # noqa: ANN401 - JSON
    """A statement that allows, of a key's policy."""
    return {"Effect": "Allow", "Principal": principal, "Action": action} | more


def deny(principal: object, action: object = "kms:*", **more: Any) -> Document:  # noqa: ANN401 - JSON
    """A statement that denies, of a key's policy."""
    return allow(principal, action, **more) | {"Effect": "Deny"}


def mine(action: object = "kms:*", effect: str = "Allow", **more: Any) -> Document:  # noqa: ANN401 - JSON
    """A statement of a user's policy."""
    return {"Effect": effect, "Action": action} | more


DELEGATING = key_policy(allow({"AWS": ROOT}))


def decided(
    question: Question,
    policy: Policy | None = DELEGATING,
    policies: Sequence[OwnPolicy] = (),
    grants: Sequence[GrantRecord] = (),
) -> Decision:
    """The decision."""
    return decide(
        question, policy, policies, lambda principal: [grant for grant in grants if grant.grantee == principal]
    )


def a_grant(*operations: str, grantee: str = ALICE, **changes: Any) -> GrantRecord:  # noqa: ANN401 - members
    """A grant of alice's on the key."""
    base: dict[str, Any] = {
        "grant_id": "ab" * 32,
        "key_id": BASE["key_id"],
        "region": REGION,
        "name": "",
        "grantee": grantee,
        "retiring": None,
        "operations": operations,
        "context_equals": None,
        "context_subset": None,
        "creation_date": NOW,
    }
    return GrantRecord(**{**base, **changes})
