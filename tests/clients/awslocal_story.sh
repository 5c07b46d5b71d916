#!/usr/bin/env bash
# awslocal, which reads AWS_ENDPOINT_URL: encrypts, decrypts, describes.
set -euo pipefail

export AWS_ENDPOINT_URL=$AWS_ENDPOINT_URL_KMS
unset AWS_ENDPOINT_URL_KMS
printf 'attack at dawn\n' >plain.txt
awslocal kms encrypt --key-id "$KEY_ALIAS" --plaintext fileb://plain.txt --query CiphertextBlob --output text |
    base64 -d >sealed
awslocal kms decrypt --ciphertext-blob fileb://sealed --query Plaintext --output text | base64 -d | cmp - plain.txt
[[ $(awslocal kms describe-key --key-id "$KEY_ALIAS" --query KeyMetadata.Arn --output text) == "$KEY_ARN" ]]
echo "the story holds"
