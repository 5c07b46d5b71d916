#!/usr/bin/env bash
# The AWS Encryption CLI: a file with a context, opened, and refused with another one.
set -euo pipefail

printf 'attack at dawn\n' >plain.txt
aws-encryption-cli --encrypt --input plain.txt --output sealed --wrapping-keys "key=$KEY_ARN" \
    --encryption-context purpose=test --suppress-metadata
aws-encryption-cli --decrypt --input sealed --output opened --wrapping-keys "key=$KEY_ARN" \
    --encryption-context purpose=test --suppress-metadata
cmp opened plain.txt
aws-encryption-cli --decrypt --input sealed --output again --wrapping-keys discovery=true \
    --encryption-context purpose --suppress-metadata
cmp again plain.txt
# A file with another context is skipped, with a warning and status 0.
aws-encryption-cli --decrypt --input sealed --output theft --wrapping-keys "key=$KEY_ARN" \
    --encryption-context purpose=theft --suppress-metadata 2>refused
[[ ! -e theft ]]
echo "the story holds"
