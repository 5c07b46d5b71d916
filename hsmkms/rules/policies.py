"""The text of key policies: the default one, and what can be stored at all.

Source: AWS KMS Developer Guide, "Key policies in AWS KMS" and "Default key policy".
"""

import json
from typing import Final

import msgspec

from hsmkms.errors import LimitExceededException, MalformedPolicyDocumentException
from hsmkms.model.ids import root_arn

MAX_BYTES: Final = 32_768


def default_policy(account: str) -> str:
    """The policy of a key that was made without one: it lets the account's own policies decide."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": root_arn(account)},
        "Action": "kms:*",
        "Resource": "*",
    }
    document = {"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}
    return json.dumps(document, separators=(",", ":"))


def check_text(policy: str) -> None:
    """Raise if the text is too long for a key policy, or is not a JSON object with statements."""
    data = policy.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise LimitExceededException(f"The key policy is {len(data)} bytes long; at most {MAX_BYTES} are possible.")
    document = _decode(data)
    statements = document.get("Statement") if isinstance(document, dict) else None
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements or not all(isinstance(item, dict) for item in statements):
        raise MalformedPolicyDocumentException(
            "The key policy must be a JSON object whose Statement is an object, or a list of at least one."
        )


def _decode(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedPolicyDocumentException("The key policy is not valid JSON.") from exc
