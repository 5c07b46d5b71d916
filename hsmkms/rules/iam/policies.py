"""Build and parse policy texts: the default key policy, that of services' keys, and policies to be put.

Source: AWS KMS Developer Guide, "Key policies in AWS KMS" and "Default key policy".
"""

import json
from typing import Any, Final

from hsmkms.errors import LimitExceededException
from hsmkms.model.ids import root_arn
from hsmkms.rules.iam import documents as policy_documents
from hsmkms.rules.iam.documents import Policy, PolicyKind

MAX_BYTES: Final = 32_768
MAX_OWN_CHARACTERS: Final = 10_240
NAME: Final = "default"
NOTHING: Final = '{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}'
"""A user's policy that denies everything."""


def default_policy(account: str) -> str:
    """Return the policy of a key created without one: it lets the account's own policies decide."""
    return _document(
        "key-default-1",
        {
            "Sid": "Enable IAM User Permissions",
            "Effect": "Allow",
            "Principal": {"AWS": root_arn(account)},
            "Action": "kms:*",
            "Resource": "*",
        },
    )


def service_policy(account: str) -> str:
    """Return the unchangeable policy of a service's key: every principal of the account may use it."""
    return _document(
        "auto-service-1",
        {
            "Sid": "Allow use of the key by everybody in the account",
            "Effect": "Allow",
            "Principal": {"AWS": "*"},
            "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
            "Resource": "*",
            "Condition": {"StringEquals": {"kms:CallerAccount": account}},
        },
        {
            "Sid": "Allow the account to read about the key",
            "Effect": "Allow",
            "Principal": {"AWS": root_arn(account)},
            "Action": ["kms:Describe*", "kms:Get*", "kms:List*"],
            "Resource": "*",
        },
    )


def read_key_policy(text: str, account: str) -> Policy:
    """Parse a new key policy. LimitExceededException if it is too long, or MalformedPolicyDocumentException."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise LimitExceededException(f"The key policy is {len(data)} bytes long; at most {MAX_BYTES} are possible.")
    return policy_documents.read(text, PolicyKind.KEY, account)


def read_own_policy(text: str, account: str) -> Policy:
    """Parse a new policy of a user or group. LimitExceededException or MalformedPolicyDocumentException."""
    if len(text) > MAX_OWN_CHARACTERS:
        raise LimitExceededException(
            f"The policy is {len(text)} characters long; at most {MAX_OWN_CHARACTERS} are possible."
        )
    return policy_documents.read(text, PolicyKind.IDENTITY, account)


def stored_key_policy(text: str, account: str) -> Policy:
    """Parse a stored key policy, perhaps of a version that accepted more. MalformedPolicyDocumentException."""
    return policy_documents.read(text, PolicyKind.KEY, account, stored=True)


def stored_own_policy(text: str, account: str) -> Policy:
    """Parse a stored policy of a user or group, perhaps of a version that accepted more."""
    return policy_documents.read(text, PolicyKind.IDENTITY, account, stored=True)


def unreadable(account: str) -> Policy:
    """Return the replacement of a stored policy that this version cannot evaluate: only the root has access."""
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": root_arn(account)},
        "Action": "kms:*",
        "Resource": "*",
        "Condition": {"ArnEquals": {"aws:PrincipalArn": root_arn(account)}},
    }
    return policy_documents.read(_document("unreadable", statement), PolicyKind.KEY, account)


def _document(name: str, *statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Id": name, "Statement": list(statements)}, separators=(",", ":"))
