"""Real clients that are not boto3: the aws CLI, the AWS Encryption SDK, and the AWS SDK for JavaScript."""

import filecmp
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import CreateAwsKmsKeyringInput
from aws_cryptographic_material_providers.mpl.references import IKeyring
from aws_encryption_sdk import EncryptionSDKClient
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from hsmkms.testing import Endpoint

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
SECONDS = 800
"""After which a test gives up."""
JAVASCRIPT_SDK = "@aws-sdk/client-kms@3"
FILE_BYTES = 50 * 1024 * 1024
FRAME_BYTES = 256 * 1024


def environment(endpoint: Endpoint, home: Path, **more: str) -> dict[str, str]:
    """What a client finds in its environment: nothing of the user who runs the tests."""
    usual = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8", "AWS_PAGER": ""}
    return usual | endpoint.environment() | more


def run(command: list[object], endpoint: Endpoint, folder: Path, **more: str) -> str:
    """What a client prints; it must succeed."""
    done = subprocess.run(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd=folder,
        env=environment(endpoint, folder, **more),
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_aws_cli(hsmkms_endpoint: Endpoint, tmp_path: Path) -> None:
    """The whole life of keys with the aws CLI and openssl, as a script of the shell tells it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    said = run(["bash", HERE / "transcripts" / "aws_story.sh"], hsmkms_endpoint, tmp_path)
    assert said == "the story holds\n"


# -- the AWS Encryption SDK -------------------------------------------------------------------------------------


def kms_keyring(endpoint: Endpoint, key_arn: str) -> IKeyring:
    """The keyring of AWS's material providers that wraps data keys by a KMS key."""
    providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
    made = CreateAwsKmsKeyringInput(kms_key_id=key_arn, kms_client=endpoint.client())
    keyring: IKeyring = providers.create_aws_kms_keyring(input=made)
    return keyring


def unseal(sdk: EncryptionSDKClient, sealed: bytes, keyring: IKeyring, **more: Any) -> bytes:  # noqa: ANN401 - of the SDK
    """What was sealed. Closes what a refusal leaves half read, where the SDK itself raises and closes nothing."""
    stream = sdk.stream(mode="d", source=sealed, keyring=keyring, **more)
    try:
        return bytes(stream.read())
    finally:
        io.IOBase.close(stream)


def test_encryption_sdk(hsmkms_endpoint: Endpoint, tmp_path: Path) -> None:
    """The AWS Encryption SDK seals and opens a file of 50 MB through a KMS keyring, with the right context only."""
    client = hsmkms_endpoint.client()
    key = client.create_key()["KeyMetadata"]
    keyring = kms_keyring(hsmkms_endpoint, key["Arn"])
    sdk = EncryptionSDKClient()
    context = {"purpose": "backup", "file": "large"}
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(os.urandom(1024 * 1024) * (FILE_BYTES // (1024 * 1024)))

    with (
        plain.open("rb") as source,
        sealed.open("wb") as target,
        sdk.stream(
            mode="e", source=source, keyring=keyring, encryption_context=context, frame_length=FRAME_BYTES
        ) as encryptor,
    ):
        shutil.copyfileobj(encryptor, target, FRAME_BYTES)
    assert sealed.stat().st_size > FILE_BYTES
    assert context.items() <= encryptor.header.encryption_context.items()

    client.rotate_key_on_demand(KeyId=key["KeyId"])  # what was sealed before still opens
    with (
        sealed.open("rb") as source,
        opened.open("wb") as target,
        sdk.stream(mode="d", source=source, keyring=keyring, encryption_context=context) as decryptor,
    ):
        shutil.copyfileobj(decryptor, target, FRAME_BYTES)
    assert opened.stat().st_size == FILE_BYTES
    assert filecmp.cmp(plain, opened, shallow=False)

    head = sealed.read_bytes()
    with pytest.raises(AWSEncryptionSDKClientError, match="does not match reproduced encryption context"):
        unseal(sdk, head, keyring, encryption_context=context | {"purpose": "theft"})
    with pytest.raises(AWSEncryptionSDKClientError, match="No Configured KMS Key was able to decrypt"):
        unseal(sdk, head.replace(b"backup", b"theft!"), keyring)
    other = kms_keyring(hsmkms_endpoint, client.create_key()["KeyMetadata"]["Arn"])
    with pytest.raises(AWSEncryptionSDKClientError, match="No Encrypted Data Keys found to match"):
        unseal(sdk, head, other)


# -- the AWS SDK for JavaScript ---------------------------------------------------------------------------------


def test_javascript_sdk(hsmkms_endpoint: Endpoint, tmp_path: Path) -> None:
    """The AWS SDK for JavaScript does a key's daily work, and knows errors by their classes."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    installing = subprocess.run(
        [npm, "install", "--prefix", tmp_path, "--no-audit", "--no-fund", "--loglevel=error", JAVASCRIPT_SDK],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd=tmp_path,
    )
    if installing.returncode:
        pytest.skip(f"npm cannot install {JAVASCRIPT_SDK} here: {installing.stderr.strip()[:200]}")
    story = shutil.copy(HERE / "programs" / "javascript_story.mjs", tmp_path)
    assert run([node, story], hsmkms_endpoint, tmp_path) == "the story holds\n"
