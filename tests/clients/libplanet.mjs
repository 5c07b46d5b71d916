// @planetarium/account-aws-kms: makes a key, lists it, signs; the signature is verified by node:crypto.
import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import { AwsKmsKeyStore } from "@planetarium/account-aws-kms";

const client = new KMSClient(); // endpoint, region and credentials are in the environment
const store = new AwsKmsKeyStore(client);
const generated = await store.generate();
assert.equal(generated.result, "success");
const { keyId } = generated;
const listed = [];
for await (const each of store.list()) listed.push(each.keyId);
assert.deepEqual(listed, [keyId]); // the symmetric key is none of its own
const got = await store.get(keyId);
assert.equal(got.result, "success");
const message = new TextEncoder().encode("message");
const signature = await got.account.sign(message);
const { PublicKey } = await client.send(new GetPublicKeyCommand({ KeyId: keyId }));
const key = createPublicKey({ key: Buffer.from(PublicKey), format: "der", type: "spki" });
assert.ok(verify("sha256", message, key, signature.toBytes ? Buffer.from(signature.toBytes()) : signature));
assert.equal((await store.delete(keyId)).result, "success");
console.log("the story holds");
