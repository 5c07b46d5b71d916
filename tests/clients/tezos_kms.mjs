// @tacoinfra/tezos-kms: public key and signature of an operation, verified by @noble/curves.
import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { createRequire } from "node:module";
import { secp256k1 } from "@noble/curves/secp256k1.js";
import { blake2b } from "@noble/hashes/blake2.js";
import AWS from "aws-sdk";
import tezos from "@tacoinfra/tezos-kms";

const require = createRequire(import.meta.url);
AWS.config.kms = { endpoint: process.env.AWS_ENDPOINT_URL_KMS }; // this SDK reads no variable for it
createRequire(require.resolve("@tacoinfra/tezos-kms"))("aws-sdk").config.kms = AWS.config.kms;
const keyId = process.env.KEY_ID;
const { PublicKey } = await new AWS.KMS().getPublicKey({ KeyId: keyId }).promise();
const client = new tezos.TezosKmsClient(keyId, process.env.AWS_REGION);
assert.match(await client.getPublicKey(), /^sppk/);
assert.match(await client.getPublicKeyHash(), /^tz2/);
assert.match(await client.signOperationBase58(Buffer.from("deadbeef", "hex")), /^spsig/);
const { x, y } = createPublicKey({ key: PublicKey, format: "der", type: "spki" }).export({ format: "jwk" });
const point = Buffer.concat([Buffer.from([4]), Buffer.from(x, "base64url"), Buffer.from(y, "base64url")]);
const operation = Buffer.from("deadbeef", "hex"), digest = blake2b(operation, { dkLen: 32 });
for (let time = 0; time < 4; time++) {
    assert.ok(secp256k1.verify(new Uint8Array(await client.signOperation(operation)), digest, point, { prehash: false }));
}
console.log("the story holds");
