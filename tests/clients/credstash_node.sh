#!/usr/bin/env bash
# aws-credstash for Node.js, its table in moto's DynamoDB, and credstash for Python reading what it has written.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/moto.sh"
export AWS_ENDPOINT_URL_DYNAMODB=$moto_url
cat >"$CLIENT_KIT/credstash.cjs" <<'JS'
const Credstash = require("aws-credstash");
const { KEY_ALIAS: kmsKey, AWS_REGION: region, AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL_DYNAMODB } = process.env;
const credstash = new Credstash({
    table: "credential-store", kmsKey, awsOpts: { region },
    kmsOpts: { endpoint: AWS_ENDPOINT_URL_KMS }, dynamoOpts: { endpoint: AWS_ENDPOINT_URL_DYNAMODB },
});
(async () => {
    const context = { purpose: "test" };
    await credstash.putSecret({ name: "password", secret: "hunter2", context });
    if ((await credstash.getSecret({ name: "password", context })) !== "hunter2") throw new Error("not what was put");
    const refused = await credstash.getSecret({ name: "password", context: { purpose: "theft" } }).catch((error) => error);
    if (!(refused instanceof Error)) throw new Error("another context was taken");
})().catch((error) => { console.error(error); process.exit(1); });
JS
credstash setup >/dev/null
node "$CLIENT_KIT/credstash.cjs"
[[ $(credstash get password purpose=test) == hunter2 ]]
echo "the story holds"
