"""PyMongo's client-side encryption: data keys under the KMS, over TLS as the driver demands. Prints one line."""

import os
import uuid
from urllib.parse import urlsplit

import bson
from bson.codec_options import CodecOptions
from key_vault import KeyVault
from pymongo import MongoClient
from pymongo.encryption import Algorithm, ClientEncryption
from pymongo.errors import EncryptionError

where = urlsplit(os.environ["AWS_ENDPOINT_URL_KMS"])
credentials = {"accessKeyId": os.environ["AWS_ACCESS_KEY_ID"], "secretAccessKey": os.environ["AWS_SECRET_ACCESS_KEY"]}
master = {"region": os.environ["AWS_REGION"], "key": os.environ["KEY_ARN"], "endpoint": where.netloc}
trust = {"aws": {"tlsCAFile": os.environ["SSL_CERT_FILE"]}}
CODECS: CodecOptions = CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)

with KeyVault() as vault, MongoClient(vault.uri) as mongo:

    def encryption() -> ClientEncryption:
        """As another process would open it, with no key cached."""
        return ClientEncryption({"aws": credentials}, "vault.keys", mongo, CODECS, kms_tls_options=trust)

    with encryption() as first:
        key_id = first.create_data_key("aws", master_key=master, key_alt_names=["story"])
        sealed = first.encrypt("123-45-6789", Algorithm.AEAD_AES_256_CBC_HMAC_SHA_512_Random, key_id=key_id)
    with encryption() as second:
        assert second.decrypt(sealed) == "123-45-6789"
        again = second.encrypt(7, Algorithm.AEAD_AES_256_CBC_HMAC_SHA_512_Deterministic, key_alt_name="story")
        assert second.decrypt(again) == 7
        try:
            second.create_data_key("aws", master_key={**master, "key": f"{master['key'][:-36]}{uuid.uuid4()}"})
        except EncryptionError as exc:
            assert "NotFoundException" in str(exc)
        else:
            raise AssertionError("a data key was made under a key that there is not")
    vault.shutdown()
print("the story holds")
