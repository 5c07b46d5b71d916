"""Tink: an envelope AEAD and an encrypted keyset, under a key of the KMS. Prints one line."""

import io
import os

import boto3
import tink
from tink import aead
from tink.integration import awskms

KEY_URI = f"aws-kms://{os.environ['KEY_ARN']}"

aead.register()
client = awskms.new_client(boto3_client=boto3.client("kms"), key_uri=KEY_URI)  # the environment names the endpoint
remote = client.get_aead(KEY_URI)
envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, remote)
sealed = envelope.encrypt(b"plain", b"associated")
assert envelope.decrypt(sealed, b"associated") == b"plain"
try:
    envelope.decrypt(sealed, b"other")
except tink.TinkError:
    pass
else:
    raise AssertionError("it was decrypted with other associated data")

keyset = tink.new_keyset_handle(aead.aead_key_templates.AES128_GCM)
stored = io.BytesIO()
keyset.write(tink.BinaryKeysetWriter(stored), remote)
again = tink.read_keyset_handle(tink.BinaryKeysetReader(stored.getvalue()), remote)
text = keyset.primitive(aead.Aead).encrypt(b"plain", b"")
assert again.primitive(aead.Aead).decrypt(text, b"") == b"plain"
print("the story holds")
