#!/usr/bin/env bash
# curl --aws-sigv4: encrypts, decrypts, and an error.
set -euo pipefail

call() {
    curl --silent --aws-sigv4 "aws:amz:$AWS_REGION:kms" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
        -H "X-Amz-Target: TrentService.$1" -H 'Content-Type: application/x-amz-json-1.1' -d "$2" "$AWS_ENDPOINT_URL_KMS/"
}
member() {
    sed "s/.*\"$1\":\"\([^\"]*\)\".*/\1/"
}
sealed=$(call Encrypt "{\"KeyId\":\"$KEY_ID\",\"Plaintext\":\"cGxhaW4=\"}" | member CiphertextBlob)
[[ $(call Decrypt "{\"CiphertextBlob\":\"$sealed\"}" | member Plaintext) == cGxhaW4= ]]
[[ $(call Decrypt '{"CiphertextBlob":"cGxhaW4="}') == *InvalidCiphertextException* ]]
echo "the story holds"
