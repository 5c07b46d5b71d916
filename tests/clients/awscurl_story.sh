#!/usr/bin/env bash
# awscurl: encrypts and decrypts by requests that it signs.
set -euo pipefail

call() {
    awscurl --service kms --region "$AWS_REGION" -X POST -H "X-Amz-Target: TrentService.$1" \
        -H 'Content-Type: application/x-amz-json-1.1' -d "$2" "$AWS_ENDPOINT_URL_KMS/"
}
member() {
    python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}
sealed=$(call Encrypt "{\"KeyId\":\"$KEY_ID\",\"Plaintext\":\"cGxhaW4=\"}" | member CiphertextBlob)
[[ $(call Decrypt "{\"CiphertextBlob\":\"$sealed\"}" | member Plaintext) == cGxhaW4= ]]
echo "the story holds"
