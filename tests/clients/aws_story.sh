#!/usr/bin/env bash
# The life of keys with the unmodified aws CLI: rotation by hand and by the service, imported material, deletion.
# The environment names endpoint and credentials (AWS_ENDPOINT_URL_KMS, AWS_ACCESS_KEY_ID ...); runs in an empty folder.
set -euo pipefail

same() { # WHAT FOUND EXPECTED
    [[ $2 == "$3" ]] || {
        printf '%s: found %s, expected %s\n' "$1" "$2" "$3"
        exit 1
    }
}
fails() { # CODE COMMAND...
    local code=$1 said
    shift
    if said=$("$@" 2>&1); then
        printf 'this should have failed with %s: %s\n' "$code" "$*"
        exit 1
    fi
    [[ $said == *"($code)"* ]] || {
        printf 'expected %s, found %s\n' "$code" "$said"
        exit 1
    }
}
new_key() {
    aws kms create-key "$@" --query KeyMetadata.KeyId --output text
}

# 1. A key under an alias; a file is encrypted.
first=$(new_key --description "2025" --tags TagKey=team,TagValue=payments)
aws kms create-alias --alias-name alias/payments --target-key-id "$first"
printf 'attack at dawn\n' >plain.txt
aws kms encrypt --key-id alias/payments --plaintext fileb://plain.txt --encryption-context file=plain.txt \
    --query CiphertextBlob --output text | base64 -d >old.sealed

# 2. Manual rotation: a new key, and the alias moves to it. The program goes on to say alias/payments.
second=$(new_key --description "2026")
aws kms update-alias --alias-name alias/payments --target-key-id "$second"
same "alias" "$(aws kms list-aliases --query "Aliases[?AliasName=='alias/payments'].TargetKeyId" --output text)" "$second"
aws kms encrypt --key-id alias/payments --plaintext fileb://plain.txt --encryption-context file=plain.txt \
    --query CiphertextBlob --output text | base64 -d >new.sealed
for sealed in old.sealed new.sealed; do
    aws kms decrypt --ciphertext-blob "fileb://$sealed" --encryption-context file=plain.txt \
        --query Plaintext --output text | base64 -d | cmp - plain.txt
done
fails InvalidCiphertextException aws kms decrypt --ciphertext-blob fileb://new.sealed --encryption-context file=other

# 3. Automatic rotation, and one on demand: the key stays the same, and so does what it has encrypted.
aws kms enable-key-rotation --key-id "$second" --rotation-period-in-days 180
same "period" "$(aws kms get-key-rotation-status --key-id "$second" --query RotationPeriodInDays)" 180
aws kms rotate-key-on-demand --key-id "$second" >rotated.json
same "rotations" "$(aws kms list-key-rotations --key-id "$second" --query 'Rotations[].RotationType' --output text)" ON_DEMAND
aws kms decrypt --ciphertext-blob fileb://new.sealed --encryption-context file=plain.txt \
    --query Plaintext --output text | base64 -d | cmp - plain.txt

# 4. Imported material, wrapped by openssl.
brought=$(new_key --origin EXTERNAL)
aws kms get-parameters-for-import --key-id "$brought" --wrapping-algorithm RSAES_OAEP_SHA_256 \
    --wrapping-key-spec RSA_3072 --query '[PublicKey, ImportToken]' --output text >parameters.txt
cut -f 1 parameters.txt | base64 -d >public.der
cut -f 2 parameters.txt | base64 -d >token.bin
openssl rand -out material.bin 32
openssl pkeyutl -encrypt -pubin -keyform DER -inkey public.der -in material.bin -out wrapped.bin \
    -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256
aws kms import-key-material --key-id "$brought" --import-token fileb://token.bin \
    --encrypted-key-material fileb://wrapped.bin --expiration-model KEY_MATERIAL_EXPIRES \
    --valid-to "$(date --utc --date='30 days' +%FT%TZ)" >imported.json
same "imported key" \
    "$(aws kms describe-key --key-id "$brought" --query 'KeyMetadata.[Origin,KeyState]' --output text)" \
    $'EXTERNAL\tEnabled'

# 5. A data key for a program's own encryption.
aws kms generate-data-key --key-id "$brought" --key-spec AES_256 --query '[Plaintext, CiphertextBlob]' --output text >data.txt
cut -f 2 data.txt | base64 -d >data.sealed
same "data key" "$(aws kms decrypt --ciphertext-blob fileb://data.sealed --query Plaintext --output text)" "$(cut -f 1 data.txt)"
aws kms delete-imported-key-material --key-id "$brought" >deleted.json
fails KMSInvalidStateException aws kms decrypt --ciphertext-blob fileb://data.sealed

# 6. The old key waits for its deletion, and comes back from it.
aws kms schedule-key-deletion --key-id "$first" --pending-window-in-days 7 >scheduled.json
fails KMSInvalidStateException aws kms decrypt --ciphertext-blob fileb://old.sealed --encryption-context file=plain.txt
aws kms cancel-key-deletion --key-id "$first" >cancelled.json
fails DisabledException aws kms decrypt --ciphertext-blob fileb://old.sealed --encryption-context file=plain.txt
aws kms enable-key --key-id "$first"
aws kms re-encrypt --ciphertext-blob fileb://old.sealed --source-encryption-context file=plain.txt \
    --destination-key-id alias/payments --query KeyId --output text >moved.txt
same "re-encrypted under" "$(cut -d / -f 2 moved.txt)" "$second"
echo "the story holds"
