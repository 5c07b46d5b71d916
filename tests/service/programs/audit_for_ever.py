"""Encrypt on several threads, and print the request id of each response, until killed. Argument: configuration."""

import os
import sys
import threading

from hsmkms.kms import Kms
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.keys import CreateKeyRequest, UpdateKeyDescriptionRequest

THREADS = 4


def work(kms: Kms, key_id: str, *, changing: bool) -> None:
    """Encrypt and print request ids, for ever."""
    while True:
        caller = kms.caller("eu-central-1")
        if changing:
            kms.update_key_description(UpdateKeyDescriptionRequest(key_id=key_id, description="x"), caller)
        else:
            kms.encrypt(EncryptRequest(key_id=key_id, plaintext=b"p"), caller)
        os.write(1, f'"{caller.request_id}"\n'.encode())


with Kms.open(sys.argv[1]) as opened:
    made = opened.create_key(CreateKeyRequest()).key_metadata.key_id
    threads = [
        threading.Thread(target=work, args=(opened, made), kwargs={"changing": number == 0})
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
