#!/usr/bin/env bash
# sops 1.18, the Python program that SOPS began as: a file encrypted and decrypted. JSON, since its YAML wants an older
# ruamel.yaml.
set -euo pipefail

printf '{"password": "hunter2"}' >plain.json
sops --encrypt --kms "$KEY_ARN" plain.json >sealed.json
! grep -q hunter2 sealed.json
sops --decrypt sealed.json | grep -q '"password": "hunter2"'
echo "the story holds"
