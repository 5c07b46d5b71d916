#!/usr/bin/env bash
# SOPS: a file under a key with a context, read, changed, under a second key, its data key made anew.
set -euo pipefail

printf 'password: hunter2\nports: [80, 443]\n' >plain.yaml
second=${KEY_ARN%/*}/$(curl --silent --fail --aws-sigv4 "aws:amz:$AWS_REGION:kms" \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -H 'X-Amz-Target: TrentService.CreateKey' \
    -H 'Content-Type: application/x-amz-json-1.1' -d '{}' "$AWS_ENDPOINT_URL_KMS/" |
    sed 's/.*"KeyId":"\([^"]*\)".*/\1/')

sops encrypt --kms "$KEY_ARN" --encryption-context team:payments plain.yaml >sealed.yaml
! grep -q hunter2 sealed.yaml
sops decrypt sealed.yaml | grep -qx 'password: hunter2'
[[ $(sops decrypt --extract '["password"]' sealed.yaml) == hunter2 ]]
sed 's/team: payments/team: theft/' sealed.yaml >forged.yaml
if sops decrypt forged.yaml >refused 2>&1; then exit 1; fi
sops set sealed.yaml '["password"]' '"correct horse"'
sops rotate --in-place --add-kms "$second" sealed.yaml
grep -q "$second" sealed.yaml
[[ $(sops decrypt --extract '["password"]' sealed.yaml) == "correct horse" ]]
echo "the story holds"
