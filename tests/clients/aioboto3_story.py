"""aioboto3: a data key, its decryption, a wrong context. Prints one line."""

import asyncio
import os

import aioboto3

KEY = os.environ["KEY_ARN"]


async def main() -> None:
    """Envelope encryption as its own S3 helper does it."""
    async with aioboto3.Session().client("kms") as kms:
        context = {"purpose": "test"}
        data = await kms.generate_data_key(KeyId=KEY, KeySpec="AES_256", EncryptionContext=context)
        opened = await kms.decrypt(CiphertextBlob=data["CiphertextBlob"], EncryptionContext=context)
        assert (opened["Plaintext"], opened["KeyId"]) == (data["Plaintext"], KEY)
        try:
            await kms.decrypt(CiphertextBlob=data["CiphertextBlob"])
        except kms.exceptions.InvalidCiphertextException:
            return
        raise AssertionError("it was decrypted without its context")


asyncio.run(main())
print("the story holds")
