#!/usr/bin/env bash
# OpenBao with its awskms seal: initialised, stopped, and unsealed by itself after a restart, with what was stored.
set -euo pipefail

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
port=$(free_port)
export BAO_ADDR=http://127.0.0.1:$port BAO_CLI_NO_COLOR=1
mkdir data
cat >bao.hcl <<HCL
storage "raft" {
  path    = "$PWD/data"
  node_id = "story"
}
api_addr     = "http://127.0.0.1:$port"
cluster_addr = "https://127.0.0.1:$(free_port)"
listener "tcp" {
  address     = "127.0.0.1:$port"
  tls_disable = true
}
seal "awskms" {
  kms_key_id = "$KEY_ID"
  endpoint   = "$AWS_ENDPOINT_URL_KMS"
  region     = "$AWS_REGION"
}
HCL

server=
start() {
    bao server -config=bao.hcl >>bao.log 2>&1 &
    server=$!
    for _ in $(seq 300); do
        bao status >status 2>&1 || true
        if grep -q '^Initialized' status && { [[ $1 == any ]] || grep -q '^Sealed *false' status; }; then return; fi
        kill -0 "$server" || break
        sleep 0.1
    done
    cat bao.log >&2
    exit 1
}
stop() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
}
trap stop EXIT

start any
bao operator init -recovery-shares=1 -recovery-threshold=1 >init.txt
BAO_TOKEN=$(sed -n 's/^Initial Root Token: //p' init.txt)
export BAO_TOKEN
stop
start unsealed
bao secrets enable -path=secret kv >/dev/null
bao kv put secret/story password=hunter2 >/dev/null
stop
start unsealed
[[ $(bao kv get -field=password secret/story) == hunter2 ]]
grep -q '^Seal Type *awskms' status
echo "the story holds"
