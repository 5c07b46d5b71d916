"""Constraints of request members, and AWS's words for what breaks them."""

from enum import StrEnum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from hsmkms.errors import ValidationException
from hsmkms.model.aliases import CreateAliasRequest, ListAliasesRequest
from hsmkms.model.constraints import (
    Length,
    OneOf,
    Pattern,
    Range,
    Sensitive,
    required_members,
    validate,
    violation,
    wire_path,
)
from hsmkms.model.crypto import DecryptRequest, EncryptRequest, GenerateDataKeyRequest, GenerateRandomRequest
from hsmkms.model.enums import EncryptionAlgorithm
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.model.keys import CreateKeyRequest, DescribeKeyRequest, ListKeysRequest, UpdateKeyDescriptionRequest
from hsmkms.model.shapes import Recipient, Shape, Tag
from hsmkms.model.tags import TagResourceRequest, UntagResourceRequest


class Letter(StrEnum):
    """Two words for the sample types."""

    A = "A"
    B = "B"


class Inner(Shape, frozen=True, kw_only=True):
    """A structure with a member that must be there and a secret one."""

    name: Annotated[str, Length(1, 3)] = None  # type: ignore[assignment]
    secret: Annotated[str, Length(1, 3), Sensitive()] | None = None


class Sample(Shape, frozen=True, kw_only=True):
    """What no request has so far: constraints in maps, on whole lists, and on structures."""

    one_inner: Inner | None = None
    pairs: dict[Annotated[str, Length(1, 2)], Annotated[str, OneOf(Letter)]] | None = None
    secrets: Annotated[list[Annotated[str, Length(1, 2), Sensitive()]], Length(1, 2)] | None = None
    hidden: Annotated[list[Annotated[str, Length(1, 2)]], Sensitive()] | None = None
    by_name: dict[str, Inner] | None = None


def refusal(request: Struct) -> str:
    """The message with which a request is refused."""
    with pytest.raises(ValidationException) as caught:
        validate(request)
    return str(caught.value)


SHORT_AND_WRONG = (
    "2 validation errors detected: "
    "Value '' at 'aliasName' failed to satisfy constraint: Member must have length greater than or equal to 1; "
    "Value '' at 'aliasName' failed to satisfy constraint: "
    "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"
)

ONE = "1 validation error detected: "


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            GenerateRandomRequest(number_of_bytes=0),
            ONE + "Value '0' at 'numberOfBytes' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1",
        ),
        (
            GenerateRandomRequest(number_of_bytes=1025),
            ONE + "Value '1025' at 'numberOfBytes' failed to satisfy constraint: "
            "Member must have value less than or equal to 1024",
        ),
        (
            DescribeKeyRequest(key_id=""),
            ONE
            + "Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            DescribeKeyRequest(),
            ONE + "Value null at 'keyId' failed to satisfy constraint: Member must not be null",
        ),
        (
            EncryptRequest(key_id="k", plaintext=b""),
            ONE + "Value at 'plaintext' failed to satisfy constraint: "
            "Member must have length greater than or equal to 1",
        ),
        (
            EncryptRequest(key_id="k", plaintext=bytes(4097)),
            ONE + "Value at 'plaintext' failed to satisfy constraint: "
            "Member must have length less than or equal to 4096",
        ),
        (
            GenerateDataKeyRequest(key_id="k", key_spec="AES_512"),
            ONE + "Value 'AES_512' at 'keySpec' failed to satisfy constraint: "
            "Member must satisfy enum value set: [AES_256, AES_128]",
        ),
        (CreateAliasRequest(alias_name="", target_key_id="k"), SHORT_AND_WRONG),
        (
            EncryptRequest(),
            (
                "2 validation errors detected: "
                "Value null at 'keyId' failed to satisfy constraint: Member must not be null; "
                "Value null at 'plaintext' failed to satisfy constraint: Member must not be null"
            ),
        ),
        (
            TagResourceRequest(key_id="k", tags=[Tag(tag_key="a", tag_value=""), Tag(tag_key="", tag_value="v" * 257)]),
            (
                "2 validation errors detected: "
                "Value '' at 'tags.2.member.tagKey' failed to satisfy constraint: "
                "Member must have length greater than or equal to 1; "
                f"Value '{'v' * 257}' at 'tags.2.member.tagValue' failed to satisfy constraint: "
                "Member must have length less than or equal to 256"
            ),
        ),
        (
            CreateKeyRequest(tags=[Tag(tag_key="a")]),
            ONE + "Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null",
        ),
        (
            UntagResourceRequest(key_id="k", tag_keys=["a", "k" * 129]),
            ONE + f"Value '{'k' * 129}' at 'tagKeys.2.member' failed to satisfy constraint: "
            "Member must have length less than or equal to 128",
        ),
        (
            ListKeysRequest(resource_owners=["SELF", "ME"]),
            ONE + "Value 'ME' at 'resourceOwners.2.member' failed to satisfy constraint: "
            "Member must satisfy enum value set: [SELF, OTHER_ACCOUNTS_VIA_RAM]",
        ),
        (
            ListKeysRequest(resource_owners=[]),
            ONE + "Value at 'resourceOwners' failed to satisfy constraint: "
            "Member must have length greater than or equal to 1",
        ),
        (
            DescribeKeyRequest(key_id="k", grant_tokens=["t"] * 11),
            ONE + "Value at 'grantTokens' failed to satisfy constraint: "
            "Member must have length less than or equal to 10",
        ),
        (
            DecryptRequest(recipient=Recipient(key_encryption_algorithm="ROT13", attestation_document=b"")),
            (
                "2 validation errors detected: "
                "Value 'ROT13' at 'recipient.keyEncryptionAlgorithm' failed to satisfy constraint: "
                "Member must satisfy enum value set: [RSAES_OAEP_SHA_256]; "
                "Value at 'recipient.attestationDocument' failed to satisfy constraint: "
                "Member must have length greater than or equal to 1"
            ),
        ),
    ],
)
def test_messages(request_: Struct, message: str) -> None:
    """One error names every broken constraint with value, path and rule, word for word as AWS does."""
    assert refusal(request_) == message


@pytest.mark.parametrize(
    ("request_", "beyond"),
    [
        (EncryptRequest(key_id="alias/x", plaintext=b"..."), {"plaintext": b""}),
        (
            EncryptRequest(
                key_id="k" * 2048,
                plaintext=bytes(4096),
                encryption_context={},
                grant_tokens=[],
                encryption_algorithm=EncryptionAlgorithm.SYMMETRIC_DEFAULT,
                dry_run=False,
            ),
            {"key_id": "k" * 2049, "plaintext": bytes(4097), "grant_tokens": ["t"] * 11},
        ),
        (DecryptRequest(), {"ciphertext_blob": b"", "key_id": ""}),
        (ListAliasesRequest(limit=1000, marker=" ÿ"), {"limit": 1001, "marker": " Ā"}),
        (UpdateKeyDescriptionRequest(key_id="k", description=""), {"key_id": "", "description": "d" * 8193}),
        (
            CreateKeyRequest(description="😀" * 8192, policy="\t\n\r ~ÿ", xks_key_id="a-b_c.d", tags=[]),
            {"description": "😀" * 8193, "policy": "\0", "xks_key_id": "a b"},
        ),
        (
            TagResourceRequest(key_id="k", tags=[Tag(tag_key="k" * 128, tag_value="")]),
            {"tags": [Tag(tag_key="k" * 129, tag_value="")]},
        ),
    ],
)
def test_accepted(request_: Struct, beyond: dict[str, object]) -> None:
    """A request within every constraint, up to both ends, passes; each member that is one step beyond is refused."""
    validate(request_)
    for name, value in beyond.items():
        assert refusal(replace(request_, **{name: value})).startswith(ONE)


@pytest.mark.parametrize("name", ["alias/a\n", "alias/a b", "alias/ä", "alias/a\u0661", "\nalias/a"])
def test_pattern_is_matched_in_full_and_in_ascii(name: str) -> None:
    """A pattern must match the whole text, a trailing newline included, and its classes are ASCII as in Java."""
    assert "at 'aliasName' failed to satisfy constraint: Member must satisfy regular" in refusal(
        CreateAliasRequest(alias_name=name, target_key_id="k")
    )


def test_digits_of_patterns_are_ascii() -> None:
    r"""In a pattern ``\d`` means 0 to 9, not the digits of every script."""

    class Digits(Shape, frozen=True):
        text: Annotated[str, Pattern(r"^\d+$")]

    validate(Digits("123"))
    assert "pattern: ^\\d+$" in refusal(Digits("\u0661"))


@pytest.mark.parametrize("policy", ["\u0100", "a\u0008", "{}\u2028"])
def test_escapes_in_patterns(policy: str) -> None:
    r"""Escapes as ``\u00FF`` in the model's patterns mean the character."""
    assert "at 'policy' failed" in refusal(CreateKeyRequest(policy=policy))


def test_older_key_spec_list_is_closed() -> None:
    """CustomerMasterKeySpec takes no spec that is newer than it, while KeySpec does."""
    validate(CreateKeyRequest(key_spec="ML_DSA_44", customer_master_key_spec="RSA_2048"))
    assert "'ML_DSA_44' at 'customerMasterKeySpec'" in refusal(CreateKeyRequest(customer_master_key_spec="ML_DSA_44"))


def test_long_values_are_cut() -> None:
    """A message repeats at most 1,024 characters of a wrong value."""
    message = refusal(DescribeKeyRequest(key_id="k" * 1_000_000))
    assert f"Value '{'k' * 1024}' at 'keyId'" in message
    assert len(message) < 1300


@pytest.mark.parametrize(
    "request_",
    [
        CreateGrantRequest(key_id="k", grantee_principal="a", operations=[""] * 20_000),
        TagResourceRequest(key_id="k", tags=[Tag()] * 10_000),
    ],
    ids=["operations", "tags"],
)
def test_a_message_stays_small(request_: Struct) -> None:
    """A message counts all broken constraints and lists 50, so that a request of 64 KB has no response of 8 MB."""
    message = refusal(request_)
    assert message.startswith("20000 validation errors detected: Value")
    assert message.count("failed to satisfy constraint") == 50
    assert len(message) < 65_536


def test_secrets_are_never_shown() -> None:
    """Bytes, sensitive members, and lists that may hold some are named without their value."""
    secret = "S3cr3t"  # noqa: S105 - of nothing
    requests: list[Struct] = [
        EncryptRequest(key_id="k", plaintext=secret.encode() * 1000),
        DecryptRequest(ciphertext_blob=secret.encode() * 2000),
        Sample(one_inner=Inner(name="n", secret=secret)),
        Sample(secrets=[secret]),
        Sample(secrets=["a", "b", secret]),
        Sample(hidden=[secret]),
    ]
    for request in requests:
        message = refusal(request)
        assert secret not in message
        assert "Value at '" in message


def test_nested_structures() -> None:
    """A structure is checked wherever it stands, with the path that leads there."""
    assert refusal(Sample(one_inner=Inner(name="long"))).startswith(ONE + "Value 'long' at 'oneInner.name' failed")
    assert "Value null at 'oneInner.name' failed" in refusal(Sample(one_inner=Inner()))
    assert "Value 'long' at 'byName.1.value.name' failed" in refusal(Sample(by_name={"x": Inner(name="long")}))


def test_maps() -> None:
    """Keys and values of a map are checked, and named by their number, since a key may be long or private."""
    validate(Sample(pairs={"a": "A", "bb": "B"}))
    message = refusal(Sample(pairs={"a": "A", "": "B", "bb": "C"}))
    assert message.startswith("2 validation errors detected: Value '' at 'pairs.2.key' failed")
    assert "; Value 'C' at 'pairs.3.value' failed to satisfy constraint: Member must satisfy enum value" in message


def test_required_members() -> None:
    """The members that must be there are those whose type has no None."""
    assert required_members(EncryptRequest) == {"key_id", "plaintext"}
    assert required_members(DecryptRequest) == set()
    assert required_members(Tag) == {"tag_key", "tag_value"}


def test_violation() -> None:
    """A check outside the types speaks in the same words."""
    assert str(violation("limit", 101, "Member must have value less than or equal to 100")) == (
        ONE + "Value '101' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 100"
    )
    assert "Value null at 'keyId'" in str(violation("keyId", None, "Member must not be null"))


@pytest.mark.parametrize(
    ("name", "path"), [("KeyId", "keyId"), ("NumberOfBytes", "numberOfBytes"), ("AWSAccountId", "aWSAccountId")]
)
def test_paths(name: str, path: str) -> None:
    """A path has the wire name with a small first letter."""
    assert wire_path(name) == path


def holds(constraint: Length | Range, value: Any) -> bool:  # noqa: ANN401 - a number, or what has a length
    """True if a value meets a constraint."""
    broken: list[str] = []
    constraint.check(value, "p", lambda *violation: broken.append(violation[2]))
    return not broken


@given(st.integers(), st.integers(), st.integers())
def test_range(lowest: int, span: int, value: int) -> None:
    """A number is in range exactly if it lies between both ends or is one of them."""
    highest = lowest + abs(span)
    assert holds(Range(lowest, highest), value) == (value in range(lowest, highest + 1))


@given(st.integers(0, 5), st.integers(0, 5), st.text(max_size=12) | st.binary(max_size=12))
def test_length(shortest: int, span: int, value: str | bytes) -> None:
    """Length counts characters or bytes, both ends included."""
    assert holds(Length(shortest, shortest + span), value) == (shortest <= len(value) <= shortest + span)


@given(
    st.builds(
        EncryptRequest,
        key_id=st.none() | st.text(max_size=3) | st.just("k" * 2049),
        plaintext=st.none() | st.binary(max_size=3) | st.just(bytes(4097)),
        encryption_algorithm=st.none() | st.sampled_from([*EncryptionAlgorithm, "SM2PKE", ""]),
    )
)
def test_every_violation_is_counted(request_: EncryptRequest) -> None:
    """The number in front is that of the broken constraints, and a request without any passes."""
    broken = sum(
        (
            request_.key_id is None or not 1 <= len(request_.key_id) <= 2048,
            request_.plaintext is None or not 1 <= len(request_.plaintext) <= 4096,
            request_.encryption_algorithm not in (None, *EncryptionAlgorithm),
        )
    )
    if not broken:
        validate(request_)
        return
    message = refusal(request_)
    assert message.startswith(f"{broken} validation error{'s' if broken > 1 else ''} detected: ")
    assert message.count("; Value") == broken - 1
