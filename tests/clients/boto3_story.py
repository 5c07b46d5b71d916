"""boto3: the life of a key, then what the other kinds of keys do. Prints one line."""

import contextlib
import hmac
import os
from collections.abc import Iterator

import boto3
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

kms = boto3.client("kms")  # endpoint, region and credentials are in the environment


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    """What is inside must fail with AWS's code."""
    try:
        yield
    except ClientError as exc:
        assert exc.response["Error"]["Code"] == code, exc
    else:
        raise AssertionError(f"this should have failed with {code}")


def new_key(**more: object) -> str:
    """The id of a new key."""
    return str(kms.create_key(**more)["KeyMetadata"]["KeyId"])


# 1. Rotation by hand and by the service leaves old ciphertexts open, with their context alone.
context = {"purpose": "test"}
first = new_key(Tags=[{"TagKey": "team", "TagValue": "payments"}])
alias = f"alias/story-{first}"
kms.create_alias(AliasName=alias, TargetKeyId=first)
sealed = kms.encrypt(KeyId=alias, Plaintext=b"plain", EncryptionContext=context)["CiphertextBlob"]
kms.rotate_key_on_demand(KeyId=first)
assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == b"plain"
with refused("InvalidCiphertextException"):
    kms.decrypt(CiphertextBlob=sealed)
kms.update_alias(AliasName=alias, TargetKeyId=new_key())
with refused("IncorrectKeyException"):
    kms.decrypt(CiphertextBlob=sealed, KeyId=alias, EncryptionContext=context)

# 2. A grant that is made, listed and retired.
grant = kms.create_grant(
    KeyId=first,
    GranteePrincipal=kms.describe_key(KeyId=first)["KeyMetadata"]["Arn"]
    .replace(f":kms:{kms.meta.region_name}:", ":iam::")
    .split(":key/")[0]
    + ":role/reader",
    Operations=["Decrypt"],
)
assert [each["GrantId"] for each in kms.list_grants(KeyId=first)["Grants"]] == [grant["GrantId"]]
kms.retire_grant(GrantToken=grant["GrantToken"])
assert kms.list_grants(KeyId=first)["Grants"] == []

# 3. Imported material, wrapped by another library.
brought = new_key(Origin="EXTERNAL")
wanted = kms.get_parameters_for_import(
    KeyId=brought, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
)
wrapping = load_der_public_key(wanted["PublicKey"])
wrapped = wrapping.encrypt(os.urandom(32), padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
kms.import_key_material(
    KeyId=brought,
    ImportToken=wanted["ImportToken"],
    EncryptedKeyMaterial=wrapped,
    ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
)
moved = kms.re_encrypt(CiphertextBlob=sealed, SourceEncryptionContext=context, DestinationKeyId=brought)
assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"plain"
kms.delete_imported_key_material(KeyId=brought)
with refused("KMSInvalidStateException"):
    kms.encrypt(KeyId=brought, Plaintext=b"x")

# 4. A signature that another library verifies, and an HMAC.
signer = new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
signature = kms.sign(KeyId=signer, Message=b"message", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
public = load_der_public_key(kms.get_public_key(KeyId=signer)["PublicKey"])
public.verify(signature, b"message", ec.ECDSA(SHA256()))
mac_key = new_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
made = [kms.generate_mac(KeyId=mac_key, Message=b"m", MacAlgorithm="HMAC_SHA_256")["Mac"] for _ in range(2)]
assert hmac.compare_digest(*made)
assert kms.verify_mac(KeyId=mac_key, Message=b"m", MacAlgorithm="HMAC_SHA_256", Mac=made[0])["MacValid"]

# 5. Data keys, pages, deletion.
data = kms.generate_data_key(KeyId=first, KeySpec="AES_256")
assert kms.decrypt(CiphertextBlob=data["CiphertextBlob"])["Plaintext"] == data["Plaintext"]
pages = kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2})
listed = {each["KeyId"] for page in pages for each in page["Keys"]}
assert {first, brought, mac_key, os.environ["KEY_ID"]} <= listed
assert kms.schedule_key_deletion(KeyId=first, PendingWindowInDays=7)["KeyState"] == "PendingDeletion"
with refused("KMSInvalidStateException"):
    kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)
print("the story holds")
