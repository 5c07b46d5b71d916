#!/usr/bin/env bash
# credstash, its table in moto's DynamoDB: two versions of a secret with a context.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/moto.sh"
export AWS_ENDPOINT_URL_DYNAMODB=$moto_url
credstash setup >/dev/null
credstash put -k "$KEY_ALIAS" password hunter1 purpose=test >/dev/null
credstash put -k "$KEY_ALIAS" -v 2 password hunter2 purpose=test >/dev/null
[[ $(credstash get password purpose=test) == hunter2 ]]
[[ $(credstash get -v 0000000000000000001 password purpose=test) == hunter1 ]]
if credstash get password purpose=theft >refused 2>&1; then exit 1; fi
grep -qi 'context' refused
echo "the story holds"
