#!/usr/bin/env bash
# Cloud Custodian, with moto for STS and tagging: finds keys without rotation and turns it on, then finds none.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/moto.sh"
export AWS_ENDPOINT_URL_STS=$moto_url AWS_ENDPOINT_URL_RESOURCE_GROUPS_TAGGING_API=$moto_url
cat >policy.yaml <<'YAML'
policies:
  - name: rotate
    resource: kms-key
    filters:
      - type: value
        key: KeyManager
        value: CUSTOMER
      - type: key-rotation-status
        key: KeyRotationEnabled
        value: false
    actions:
      - type: set-rotation
        state: true
YAML
found() {
    custodian run --region "$AWS_REGION" --cache-period 0 --output-dir "$1" policy.yaml >"$1.log" 2>&1 || {
        cat "$1.log" >&2
        exit 1
    }
    python -c 'import json, sys; print(*(each["KeyArn"] for each in json.load(open(sys.argv[1]))))' "$1/rotate/resources.json"
}
[[ $(found first) == "$KEY_ARN" ]]
[[ -z $(found second) ]]
echo "the story holds"
