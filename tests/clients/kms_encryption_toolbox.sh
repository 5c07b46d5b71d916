#!/usr/bin/env bash
# kms-encryption-toolbox: variables sealed by the command, and a program started with them opened.
set -euo pipefail

sealed=$(kms-encryption encrypt --cmk-arn "$KEY_ARN" --data hunter2 --prefix 'decrypt:')
[[ $sealed == decrypt:* ]]
[[ $(kms-encryption decrypt --data "$sealed" --prefix 'decrypt:') == hunter2 ]]
printf '{"password": "hunter2"}' | kms-encryption encrypt-json --cmk-arn "$KEY_ARN" --prefix 'decrypt:' >sealed.json
! grep -q hunter2 sealed.json
kms-encryption decrypt-json --prefix 'decrypt:' sealed.json | grep -q '"password": "hunter2"'
echo "the story holds"
