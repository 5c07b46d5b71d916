#!/usr/bin/env bash
# nitor-vault, which is built on the AWS SDK for Rust: secrets in an S3 of moto's under data keys of the KMS.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/moto.sh"
export AWS_ENDPOINT_URL_S3=$moto_url AWS_ENDPOINT_URL_STS=$moto_url AWS_ENDPOINT_URL_CLOUDFORMATION=$moto_url
export VAULT_BUCKET=story VAULT_KEY=$KEY_ARN
curl --silent --fail --request PUT "$moto_url/story" >/dev/null
vault store password --value hunter2 >/dev/null
[[ $(vault lookup password) == hunter2 ]]
sealed=$(vault encrypt 'attack at dawn')
[[ $sealed != *attack* ]]
[[ $(vault decrypt "$sealed") == 'attack at dawn' ]]
if vault decrypt "$(printf 'not sealed here' | base64)" >refused 2>&1; then exit 1; fi
grep -q "Failed to decrypt" refused
echo "the story holds"
