"""Answers as AWS's own, on the wire: members that are there, members that are not, and what is judged first.

Each expectation is an answer that AWS KMS was recorded to give.
"""

import base64
from typing import Any

import pytest
from raw_client import call

from hsmkms.testing import Endpoint

JSON = dict[str, Any]
EIGHT = base64.b64encode(b"eight   ").decode()
RSA_SIGN = {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}
RSA_ENCRYPT = {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}
HMAC = {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}
AGREEMENT = {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"}
IMPORTED = {"Origin": "EXTERNAL"}


def new_key(endpoint: Endpoint, **members: object) -> JSON:
    """The KeyMetadata of a new key."""
    metadata: JSON = call(endpoint, "CreateKey", members)[2]["KeyMetadata"]
    return metadata


@pytest.fixture(scope="module")
def keys(hsmkms_endpoint: Endpoint) -> dict[str, str]:
    """The ids of a key of each kind."""
    kinds: dict[str, JSON] = {
        "symmetric": {},
        "other": {},
        "rsa-sign": RSA_SIGN,
        "rsa-encrypt": RSA_ENCRYPT,
        "hmac": HMAC,
        "agreement": AGREEMENT,
        "imported": IMPORTED,
    }
    return {name: new_key(hsmkms_endpoint, **members)["KeyId"] for name, members in kinds.items()}


@pytest.fixture(scope="module")
def ciphertext(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> str:
    """A ciphertext of the key ``symmetric``."""
    answer = call(hsmkms_endpoint, "Encrypt", {"KeyId": keys["symmetric"], "Plaintext": EIGHT})[2]
    return str(answer["CiphertextBlob"])


def error(endpoint: Endpoint, operation: str, **members: object) -> JSON:
    """The body of an error."""
    status, headers, answer = call(endpoint, operation, members)
    assert status == 400
    assert headers["x-amzn-errortype"] == answer["__type"]
    return answer


# -- errors without a message ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "code"),
    [
        ("Decrypt", {"CiphertextBlob": EIGHT}, "InvalidCiphertextException"),
        ("Decrypt", {"CiphertextBlob": "ciphertext", "EncryptionContext": {"a": "b"}}, "InvalidCiphertextException"),
        ("ReEncrypt", {"CiphertextBlob": EIGHT, "DestinationKeyId": "symmetric"}, "InvalidCiphertextException"),
        (
            "Decrypt",
            {"KeyId": "rsa-encrypt", "CiphertextBlob": EIGHT, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
            "InvalidCiphertextException",
        ),
        (
            "Verify",
            {"KeyId": "rsa-sign", "Message": EIGHT, "Signature": EIGHT, "SigningAlgorithm": "RSASSA_PSS_SHA_256"},
            "KMSInvalidSignatureException",
        ),
        (
            "VerifyMac",
            {"KeyId": "hmac", "Message": EIGHT, "Mac": EIGHT, "MacAlgorithm": "HMAC_SHA_256"},
            "KMSInvalidMacException",
        ),
        ("RotateKeyOnDemand", {"KeyId": "rsa-sign"}, "UnsupportedOperationException"),
        ("EnableKeyRotation", {"KeyId": "hmac"}, "UnsupportedOperationException"),
        ("DisableKeyRotation", {"KeyId": "rsa-encrypt"}, "UnsupportedOperationException"),
        ("CreateAlias", {"AliasName": "alias/aws/s3", "TargetKeyId": "symmetric"}, "NotAuthorizedException"),
        (
            "DeriveSharedSecret",
            {"KeyId": "agreement", "KeyAgreementAlgorithm": "ECDH", "PublicKey": EIGHT},
            "ValidationException",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_without_a_message(
    hsmkms_endpoint: Endpoint, keys: dict[str, str], ciphertext: str, operation: str, members: JSON, code: str
) -> None:
    """Where AWS sends no ``message`` member there is none, not an empty one."""
    words = {"ciphertext": ciphertext, **keys}
    named = {name: words.get(str(value), value) for name, value in members.items()}
    assert error(hsmkms_endpoint, operation, **named) == {"__type": code}


def test_other_errors_have_a_message(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> None:
    """Import into a key of another origin, and material that does not unwrap, are refused with a sentence."""
    answer = error(hsmkms_endpoint, "EnableKeyRotation", KeyId=keys["imported"])
    assert answer["message"].endswith("origin is EXTERNAL which is not valid for this operation.")
    wanted = {"WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
    parameters = call(hsmkms_endpoint, "GetParametersForImport", {"KeyId": keys["imported"], **wanted})[2]
    answer = error(
        hsmkms_endpoint,
        "ImportKeyMaterial",
        KeyId=keys["imported"],
        ImportToken=parameters["ImportToken"],
        EncryptedKeyMaterial=base64.b64encode(bytes(256)).decode(),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )
    assert answer["__type"] == "InvalidCiphertextException"
    assert answer["message"]


# -- validation -----------------------------------------------------------------------------------------------------


def test_order_of_words(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> None:
    """The words that a member takes stand in AWS's own order where that is known."""
    answer = error(hsmkms_endpoint, "GenerateMac", KeyId=keys["hmac"], Message=EIGHT, MacAlgorithm="HMAC_SHA_1")
    assert answer["message"] == (
        "1 validation error detected: Value 'HMAC_SHA_1' at 'macAlgorithm' failed to satisfy constraint: "
        "Member must satisfy enum value set: [HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]"
    )


def test_long_values_are_shown_whole(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> None:
    """A refused value is repeated up to 1,024 characters."""
    for length in (257, 1024):
        tags = [{"TagKey": "a", "TagValue": "v" * length}]
        answer = error(hsmkms_endpoint, "TagResource", KeyId=keys["symmetric"], Tags=tags)
        assert f"Value '{'v' * length}' at 'tags.1.member.tagValue' failed" in answer["message"]


# -- rotation -------------------------------------------------------------------------------------------------------


def test_status_of_keys_that_never_rotate(hsmkms_endpoint: Endpoint) -> None:
    """GetKeyRotationStatus of asymmetric, HMAC and imported keys reads false, in every state, and names the ARN."""
    for members in (RSA_SIGN, HMAC, AGREEMENT):
        key = new_key(hsmkms_endpoint, **members)
        for operation in (None, "DisableKey", "ScheduleKeyDeletion"):
            if operation is not None:
                call(hsmkms_endpoint, operation, {"KeyId": key["KeyId"]})
            status, _, answer = call(hsmkms_endpoint, "GetKeyRotationStatus", {"KeyId": key["KeyId"]})
            assert (status, answer) == (200, {"KeyId": key["Arn"], "KeyRotationEnabled": False})


@pytest.mark.parametrize("operation", ["RotateKeyOnDemand", "EnableKeyRotation", "DisableKeyRotation"])
def test_rotation_judges_the_state_first(hsmkms_endpoint: Endpoint, operation: str) -> None:
    """A disabled RSA key is disabled before it is of a kind that does not rotate."""
    key = new_key(hsmkms_endpoint, **RSA_SIGN)
    call(hsmkms_endpoint, "DisableKey", {"KeyId": key["KeyId"]})
    assert error(hsmkms_endpoint, operation, KeyId=key["KeyId"]) == {
        "__type": "DisabledException",
        "message": f"{key['Arn']} is disabled.",
    }


# -- ReEncrypt, ReplicateKey, aliases, grants -----------------------------------------------------------------------


@pytest.mark.parametrize("destination", ["other", "rsa-sign", "hmac", "agreement"])
@pytest.mark.parametrize("source", ["other", "rsa-sign", "hmac"])
def test_wrong_source_key_comes_first(
    hsmkms_endpoint: Endpoint, keys: dict[str, str], ciphertext: str, source: str, destination: str
) -> None:
    """A SourceKeyId that is not the ciphertext's is an IncorrectKeyException, whatever kinds both keys are."""
    answer = error(
        hsmkms_endpoint,
        "ReEncrypt",
        CiphertextBlob=ciphertext,
        SourceKeyId=keys[source],
        DestinationKeyId=keys[destination],
    )
    assert answer == {
        "__type": "IncorrectKeyException",
        "message": "The key ID in the request does not identify a CMK that can perform this operation.",
    }


def test_alias_of_an_alias(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> None:
    """An alias is no target for another one, when it is made and when it is moved."""
    call(hsmkms_endpoint, "CreateAlias", {"AliasName": "alias/one", "TargetKeyId": keys["symmetric"]})
    for operation, name in (("CreateAlias", "alias/two"), ("UpdateAlias", "alias/one")):
        assert error(hsmkms_endpoint, operation, AliasName=name, TargetKeyId="alias/one") == {
            "__type": "ValidationException",
            "message": "Aliases must refer to keys. Not aliases",
        }


def test_colon_in_an_alias(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> None:
    """A colon, which the model's pattern allows, is refused in a sentence."""
    answer = error(hsmkms_endpoint, "CreateAlias", AliasName="alias/my:alias", TargetKeyId=keys["symmetric"])
    assert answer == {
        "__type": "ValidationException",
        "message": "alias/my:alias contains invalid characters for an alias",
    }


def test_both_kinds_of_constraints(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> None:
    """A grant is limited by an equal context or by a part of one, never by both."""
    pairs = {"a": "b"}
    answer = error(
        hsmkms_endpoint,
        "CreateGrant",
        KeyId=keys["symmetric"],
        GranteePrincipal="arn:aws:iam::000000000000:root",
        Operations=["Decrypt"],
        Constraints={"EncryptionContextEquals": pairs, "EncryptionContextSubset": pairs},
    )
    assert answer["__type"] == "ValidationException"
    assert "cannot both be" in answer["message"]


def test_grant_is_retired_by_the_bare_key_id(hsmkms_endpoint: Endpoint, keys: dict[str, str]) -> None:
    """RetireGrant takes a bare key id with GrantId."""
    key = keys["symmetric"]
    arn = call(hsmkms_endpoint, "DescribeKey", {"KeyId": key})[2]["KeyMetadata"]["Arn"]
    root = f"arn:aws:iam::{arn.split(':')[4]}:root"
    members = {"KeyId": key, "GranteePrincipal": root, "RetiringPrincipal": root, "Operations": ["Decrypt"]}
    made = call(hsmkms_endpoint, "CreateGrant", members)[2]
    assert call(hsmkms_endpoint, "RetireGrant", {"KeyId": key, "GrantId": made["GrantId"]})[0] == 200
    assert call(hsmkms_endpoint, "ListGrants", {"KeyId": key})[2]["Grants"] == []
