"""jwt-kms: tokens of an RSA and an EC key, verified by PyJWT. Prints one line."""

import os

import boto3
import jwt
from jwt_kms import jwk, jws

kms = boto3.client("kms")
ec = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
for key_id, algorithm in ((os.environ["KEY_ALIAS"], "RS256"), (os.environ["KEY_ALIAS"], "PS256"), (ec, "ES256")):
    key = jwk.Key(kms, key_id)
    token = jws.JWS({"hello": "world"})
    token.add_signature(key, alg=algorithm)
    assert jwt.decode(token.serialize(compact=True), key.public_key_pem, algorithms=[algorithm]) == {"hello": "world"}
print("the story holds")
