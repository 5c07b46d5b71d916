"""aiobotocore: many requests at once on one client, and pages. Prints one line."""

import asyncio
import os

from aiobotocore.session import get_session

KEY = os.environ["KEY_ARN"]


async def main() -> None:
    """Encrypt fifty texts at once, decrypt them, list keys."""
    async with get_session().create_client("kms") as kms:
        texts = [f"text {number}".encode() for number in range(50)]
        sealed = await asyncio.gather(*(kms.encrypt(KeyId=KEY, Plaintext=text) for text in texts))
        opened = await asyncio.gather(*(kms.decrypt(CiphertextBlob=each["CiphertextBlob"]) for each in sealed))
        assert [each["Plaintext"] for each in opened] == texts
        pages = kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1})
        assert KEY in [each["KeyArn"] async for page in pages for each in page["Keys"]]
        try:
            await kms.describe_key(KeyId="alias/nobody")
        except kms.exceptions.NotFoundException as exc:
            assert "alias/nobody is not found" in str(exc)
        else:
            raise AssertionError("alias/nobody was found")


asyncio.run(main())
print("the story holds")
