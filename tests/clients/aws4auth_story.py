"""requests with requests-aws4auth: encrypts, decrypts, and an error, on one connection. Prints one line."""

import base64
import os

import requests
from requests_aws4auth import AWS4Auth

names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
session = requests.Session()
session.auth = AWS4Auth(*(os.environ[name] for name in names), "kms")


def call(operation: str, **members: object) -> requests.Response:
    """One request."""
    headers = {"X-Amz-Target": f"TrentService.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    return session.post(os.environ["AWS_ENDPOINT_URL_KMS"] + "/", json=members, headers=headers, timeout=60)


plain = base64.b64encode(b"plain").decode()
sealed = call("Encrypt", KeyId=os.environ["KEY_ID"], Plaintext=plain).json()["CiphertextBlob"]
assert call("Decrypt", CiphertextBlob=sealed).json()["Plaintext"] == plain
refused = call("Decrypt", CiphertextBlob=plain)
assert (refused.status_code, refused.json()["__type"]) == (400, "InvalidCiphertextException")
print("the story holds")
