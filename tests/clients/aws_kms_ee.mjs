// aws-kms-ee: fields of an object under a data key. Endpoint, region and credentials are in the environment.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { decryptObject, encryptObject } = createRequire(import.meta.url)("aws-kms-ee");
const options = { masterKeyAlias: process.env.KEY_ALIAS, fields: ["secret"], regions: [process.env.AWS_REGION], AES: true };
const plain = { name: "open", inner: { secret: "hunter2" } };
const { encrypted, metadata } = await encryptObject(plain, options);
assert.equal(encrypted.name, "open");
assert.ok(!JSON.stringify(encrypted).includes("hunter2"));
const { object } = await decryptObject(encrypted, { AES: true, ...metadata });
assert.deepEqual(object, plain);
console.log("the story holds");
