"""Key ids, ARNs, and the ways to name a key."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.errors import HsmKmsError, InvalidArnException, NotFoundException
from hsmkms.model import ids
from hsmkms.model.ids import KeyRef, RefKind, parse_key_ref

ACCOUNT = "111122223333"
REGION = "eu-central-1"
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MRK_ID = "mrk-1234abcd12ab34cd56ef1234567890ab"
ARN_START = "arn:aws:kms:eu-central-1:111122223333"


def parse(value: str, *, aliases: bool = True) -> KeyRef:
    """Parse as a request to this account and region does."""
    return parse_key_ref(value, account=ACCOUNT, region=REGION, aliases=aliases)


def refusal(value: str, *, aliases: bool = True) -> tuple[type[HsmKmsError], str]:
    """Error and message with which the value is refused."""
    with pytest.raises(HsmKmsError) as caught:
        parse(value, aliases=aliases)
    return type(caught.value), str(caught.value)


def test_new_key_ids() -> None:
    """A new id is a random UUID, or mrk- and 32 hex digits for a multi-Region key."""
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", ids.new_key_id(multi_region=False))
    assert re.fullmatch(r"mrk-[0-9a-f]{32}", ids.new_key_id(multi_region=True))
    assert len({ids.new_key_id(multi_region=number % 2 == 0) for number in range(100)}) == 100


def test_arns() -> None:
    """The ARNs of a key, an alias and the account have AWS's form."""
    assert ids.key_arn(ACCOUNT, REGION, KEY_ID) == f"{ARN_START}:key/{KEY_ID}"
    assert ids.alias_arn(ACCOUNT, REGION, "alias/app") == f"{ARN_START}:alias/app"
    assert ids.root_arn(ACCOUNT) == "arn:aws:iam::111122223333:root"


@pytest.mark.parametrize("aliases", [True, False])
@pytest.mark.parametrize("key_id", [KEY_ID, MRK_ID])
@pytest.mark.parametrize("prefix", ["", f"{ARN_START}:key/"])
def test_keys(prefix: str, key_id: str, *, aliases: bool) -> None:
    """A key id and a key ARN name the key, whether aliases are allowed or not."""
    assert parse(prefix + key_id, aliases=aliases) == KeyRef(RefKind.KEY, REGION, key_id)


@pytest.mark.parametrize("name", ["alias/app", "alias/aws/s3", "alias/a/b_c-D"])
@pytest.mark.parametrize("prefix", ["", f"{ARN_START}:"])
def test_aliases(prefix: str, name: str) -> None:
    """An alias name and an alias ARN name the alias where they are allowed, and are no key ids elsewhere."""
    assert parse(prefix + name) == KeyRef(RefKind.ALIAS, REGION, name)
    message = f"Invalid keyId '{prefix}{name}': give the key id or key ARN (DescribeKey shows them)"
    assert refusal(prefix + name, aliases=False) == (NotFoundException, message)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "key",
        KEY_ID.upper(),
        KEY_ID[:-1],
        KEY_ID + "0",
        KEY_ID + "\n",
        KEY_ID.replace("-", ""),
        MRK_ID.upper(),
        MRK_ID[:-1],
        f"key/{KEY_ID}",
        "alias/",
        "alias/a b",
        "alias/" + "x" * 251,
        "Alias/app",
        f"{ARN_START}:key/{KEY_ID.upper()}",
        f"{ARN_START}:key/x",
        f"{ARN_START}:key/{KEY_ID}\n",
        f"{ARN_START}:alias/a:b",
    ],
)
def test_invalid_ids(value: str) -> None:
    """What has none of the four forms is answered as an invalid key id."""
    assert refusal(value) == (NotFoundException, f"Invalid keyId '{value}'")


@pytest.mark.parametrize("resource", [f"key/{KEY_ID}", "alias/app", "key/x"])
def test_other_region(resource: str) -> None:
    """An ARN of another region is answered with the name of that region."""
    value = f"arn:aws:kms:us-east-1:111122223333:{resource}"
    assert refusal(value) == (NotFoundException, "Invalid arn us-east-1")


def test_other_account() -> None:
    """Keys and aliases of other accounts are unknown here."""
    start = "arn:aws:kms:eu-central-1:999999999999:"
    assert refusal(f"{start}key/{KEY_ID}") == (NotFoundException, f"Key '{start}key/{KEY_ID}' does not exist")
    assert refusal(f"{start}alias/app") == (NotFoundException, f"Alias {start}alias/app is not found.")


@pytest.mark.parametrize(
    "value",
    [
        "arn:",
        "arn:aws:kms",
        f"{ARN_START}",
        f"{ARN_START}:{KEY_ID}",
        f"{ARN_START}:key/",
        f"{ARN_START}:alias/",
        f"{ARN_START}:Key/{KEY_ID}",
        f"arn:aws:s3:eu-central-1:111122223333:key/{KEY_ID}",
        f"arn:aws-cn:kms:eu-central-1:111122223333:key/{KEY_ID}",
        f"arn:aws:kms::111122223333:key/{KEY_ID}",
        f"arn:aws:kms:eu-central-1::key/{KEY_ID}",
        f"arn:aws:kms:eu-central-1:11112222333:key/{KEY_ID}",
    ],
)
def test_malformed_arns(value: str) -> None:
    """An ARN that cannot be read is answered with what would be right."""
    message = f"Invalid arn '{value}': expected arn:aws:kms:<region>:<account>:key/<key id>"
    assert refusal(value) == (InvalidArnException, message)


def test_unknown() -> None:
    """A well-formed name that nothing has is shown as an ARN, also when a bare id was given."""
    key = ids.unknown(KeyRef(RefKind.KEY, REGION, KEY_ID), ACCOUNT)
    alias = ids.unknown(KeyRef(RefKind.ALIAS, REGION, "alias/app"), ACCOUNT)
    assert str(key) == f"Key '{ARN_START}:key/{KEY_ID}' does not exist"
    assert str(alias) == f"Alias {ARN_START}:alias/app is not found."


@given(st.text(max_size=60), st.booleans())
def test_any_text_is_refused_properly(text: str, aliases: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    """Random text raises nothing but the two errors of a bad key id."""
    try:
        ref = parse(text, aliases=aliases)
    except (NotFoundException, InvalidArnException):
        return
    assert ref.name == text


@given(st.booleans(), st.booleans())
def test_new_ids_are_accepted(multi_region: bool, as_arn: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    """Every new id is accepted in both of its forms."""
    key_id = ids.new_key_id(multi_region=multi_region)
    assert ids.is_key_id(key_id)
    assert parse(ids.key_arn(ACCOUNT, REGION, key_id) if as_arn else key_id).name == key_id
