"""The text of key policies."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import LimitExceededException, MalformedPolicyDocumentException
from hsmkms.rules.policies import check_text, default_policy

SHAPE = "The key policy must be a JSON object whose Statement is an object, or a list of at least one."
NO_JSON = "The key policy is not valid JSON."


def test_default_policy() -> None:
    """The default policy is AWS's, with the account's root as principal, and passes its own check."""
    text = default_policy("111122223333")
    assert json.loads(text) == {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    check_text(text)


@pytest.mark.parametrize("text", ['{"Statement":{}}', '{"Statement":[{}]}', ' {"Id":"\u00e9","Statement":[{},{}]}\n'])
def test_accepted(text: str) -> None:
    """A JSON object with a statement or a list of statements is accepted."""
    check_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", NO_JSON),
        ("{", NO_JSON),
        ('{"Statement":{}}x', NO_JSON),
        ('{"Statement":"\ud800"}', NO_JSON),
        ("[" * 32_000, NO_JSON),
        ("[]", SHAPE),
        ('"Statement"', SHAPE),
        ("null", SHAPE),
        ("{}", SHAPE),
        ('{"statement":{}}', SHAPE),
        ('{"Statement":null}', SHAPE),
        ('{"Statement":"x"}', SHAPE),
        ('{"Statement":[]}', SHAPE),
        ('{"Statement":[{},1]}', SHAPE),
    ],
    ids=lambda value: value[:20],
)
def test_malformed(text: str, message: str) -> None:
    """Whatever is not a JSON object with statements is malformed."""
    with pytest.raises(MalformedPolicyDocumentException) as caught:
        check_text(text)
    assert str(caught.value) == message


def test_size() -> None:
    """32,768 bytes are accepted, one more is not, and it is bytes that count."""
    fixed = len('{"Id":"","Statement":{}}')
    check_text('{"Id":"%s","Statement":{}}' % ("x" * (32_768 - fixed)))
    with pytest.raises(LimitExceededException) as caught:
        check_text('{"Id":"%s","Statement":{}}' % ("\u00e9" * ((32_768 - fixed) // 2 + 1)))
    assert str(caught.value) == "The key policy is 32770 bytes long; at most 32768 are possible."


@given(st.text(max_size=50))
def test_random_text_is_malformed(text: str) -> None:
    """Random text is malformed and raises nothing else."""
    with pytest.raises(MalformedPolicyDocumentException):
        check_text(text)
