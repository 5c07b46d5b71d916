"""capo-kms, with an HTTP stack of its own: encrypts in parallel, decrypts, an error, pages. Prints one line."""

import asyncio
import os

from capo_kms import AsyncKMSClient
from capo_kms.errors import NotFoundException

KEY = os.environ["KEY_ARN"]


async def main() -> None:
    """Encrypt twenty texts at once, decrypt them, list keys."""
    async with AsyncKMSClient() as kms:
        texts = [f"text {number}".encode() for number in range(20)]
        sealed = await asyncio.gather(*(kms.encrypt(key_id=KEY, plaintext=text) for text in texts))
        opened = await asyncio.gather(*(kms.decrypt(ciphertext_blob=each["ciphertext_blob"]) for each in sealed))
        assert [each["plaintext"] for each in opened] == texts
        try:
            await kms.describe_key(key_id="alias/nobody")
        except NotFoundException as exc:
            assert "alias/nobody" in str(exc)
        else:
            raise AssertionError("alias/nobody was found")


asyncio.run(main())
print("the story holds")
