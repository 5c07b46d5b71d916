"""securesystemslib (The Update Framework, in-toto): signatures of AWS KMS keys, verified without it."""

import os

import boto3
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import AWSSigner, Signer

kms = boto3.client("kms")
other = kms.create_key(KeySpec="RSA_3072", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
for key_id in (os.environ["KEY_ALIAS"], other):
    uri, public_key = AWSSigner.import_(key_id)
    signature = Signer.from_priv_key_uri(uri, public_key).sign(b"metadata")
    public_key.verify_signature(signature, b"metadata")
    try:
        public_key.verify_signature(signature, b"forged")
    except UnverifiedSignatureError:
        continue
    raise AssertionError("a forged message was taken")
print("the story holds")
