#!/usr/bin/env bash
# The aws CLI 2 as Debian has it: --endpoint-url, since versions before 2.13 read no variable for it.
set -euo pipefail

kms() {
    local operation=$1
    shift
    /usr/bin/aws kms "$operation" --endpoint-url "$AWS_ENDPOINT_URL_KMS" "$@"
}

# 1. Aliases, and a context that must be the same.
printf 'attack at dawn\n' >plain.txt
kms create-alias --alias-name alias/story --target-key-id "$KEY_ID"
kms encrypt --key-id alias/story --plaintext fileb://plain.txt --encryption-context file=plain.txt \
    --query CiphertextBlob --output text | base64 -d >sealed
kms decrypt --ciphertext-blob fileb://sealed --encryption-context file=plain.txt --query Plaintext --output text |
    base64 -d | cmp - plain.txt
if said=$(kms decrypt --ciphertext-blob fileb://sealed 2>&1); then exit 1; fi
[[ $said == *"(InvalidCiphertextException)"* ]]

# 2. A signature that openssl verifies.
signer=$(kms create-key --key-spec RSA_2048 --key-usage SIGN_VERIFY --query KeyMetadata.KeyId --output text)
kms sign --key-id "$signer" --message fileb://plain.txt --signing-algorithm RSASSA_PKCS1_V1_5_SHA_256 \
    --query Signature --output text | base64 -d >signature
kms get-public-key --key-id "$signer" --query PublicKey --output text | base64 -d >public.der
openssl dgst -sha256 -verify public.der -keyform DER -signature signature plain.txt >/dev/null

# 3. Tags, pages, deletion.
kms tag-resource --key-id "$signer" --tags TagKey=team,TagValue=payments
[[ $(kms list-resource-tags --key-id "$signer" --query 'Tags[].TagValue' --output text) == payments ]]
[[ $(kms list-keys --page-size 1 --query 'length(Keys)') -ge 2 ]]
[[ $(kms schedule-key-deletion --key-id "$signer" --pending-window-in-days 7 --query KeyState --output text) == \
    PendingDeletion ]]
echo "the story holds"
