"""The AWS Encryption SDK for Python seals and opens 50 MB through a KMS keyring, with the right context only."""

import filecmp
import io
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import CreateAwsKmsKeyringInput
from aws_encryption_sdk import EncryptionSDKClient
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

MIB = 1024 * 1024
FILE_BYTES = 50 * MIB
FRAME_BYTES = MIB // 4

kms = boto3.client("kms")  # endpoint, region and credentials are in the environment
sdk = EncryptionSDKClient()
providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
context = {"purpose": "backup", "file": "large"}
plain, sealed, opened = (Path(name) for name in ("plain", "sealed", "opened"))


def keyring(key_arn: str) -> Any:  # noqa: ANN401 - of the SDK
    """The keyring that wraps data keys by a KMS key."""
    return providers.create_aws_kms_keyring(input=CreateAwsKmsKeyringInput(kms_key_id=key_arn, kms_client=kms))


def refused(message: bytes, ring: Any, words: str, **more: Any) -> None:  # noqa: ANN401
    """Opening this must fail. Closes what that leaves half read, where the SDK itself raises and closes nothing."""
    stream = sdk.stream(mode="d", source=message, keyring=ring, **more)
    try:
        stream.read()
    except AWSEncryptionSDKClientError as exc:
        assert words in str(exc), exc
    else:
        raise AssertionError(f"this should have failed: {words}")
    finally:
        with suppress(AWSEncryptionSDKClientError):
            io.IOBase.close(stream)


mine = keyring(os.environ["KEY_ARN"])
plain.write_bytes(os.urandom(MIB) * (FILE_BYTES // MIB))
with (
    plain.open("rb") as source,
    sealed.open("wb") as target,
    sdk.stream(
        mode="e", source=source, keyring=mine, encryption_context=context, frame_length=FRAME_BYTES
    ) as encryptor,
):
    shutil.copyfileobj(encryptor, target, FRAME_BYTES)
assert sealed.stat().st_size > FILE_BYTES
assert context.items() <= encryptor.header.encryption_context.items()

kms.rotate_key_on_demand(KeyId=os.environ["KEY_ID"])  # what was sealed before still opens
with (
    sealed.open("rb") as source,
    opened.open("wb") as target,
    sdk.stream(mode="d", source=source, keyring=mine, encryption_context=context) as decryptor,
):
    shutil.copyfileobj(decryptor, target, FRAME_BYTES)
assert opened.stat().st_size == FILE_BYTES
assert filecmp.cmp(plain, opened, shallow=False)

head = sealed.read_bytes()
words = "does not match reproduced encryption context"
refused(head, mine, words, encryption_context=context | {"purpose": "theft"})
refused(head.replace(b"backup", b"theft!"), mine, "No Configured KMS Key was able to decrypt")
other = keyring(kms.create_key()["KeyMetadata"]["Arn"])
refused(head, other, "No Encrypted Data Keys found to match")
print("the story holds")
