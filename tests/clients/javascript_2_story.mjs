// The AWS SDK for JavaScript 2: context, data key, errors by code, a signature that node verifies. Prints one line.
import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import AWS from "aws-sdk";

const kms = new AWS.KMS({ endpoint: process.env.AWS_ENDPOINT_URL_KMS }); // it reads no variable for the endpoint
const { KeyMetadata: key } = await kms.createKey({ Description: "d\u00e9j\u00e0 vu" }).promise();
assert.equal(key.Description, "d\u00e9j\u00e0 vu");
assert.ok(key.CreationDate instanceof Date);
const EncryptionContext = { purpose: "test" };
const sealed = await kms.encrypt({ KeyId: key.Arn, Plaintext: "from JavaScript", EncryptionContext }).promise();
const opened = await kms.decrypt({ CiphertextBlob: sealed.CiphertextBlob, EncryptionContext }).promise();
assert.equal(opened.Plaintext.toString(), "from JavaScript");
await assert.rejects(kms.decrypt({ CiphertextBlob: sealed.CiphertextBlob }).promise(), { code: "InvalidCiphertextException" });
const data = await kms.generateDataKey({ KeyId: key.KeyId, KeySpec: "AES_256" }).promise();
assert.deepEqual((await kms.decrypt({ CiphertextBlob: data.CiphertextBlob }).promise()).Plaintext, data.Plaintext);

const Message = Buffer.from("message");
const signed = await kms.sign({ KeyId: process.env.KEY_ID, Message, SigningAlgorithm: "ECDSA_SHA_256" }).promise();
const { PublicKey } = await kms.getPublicKey({ KeyId: process.env.KEY_ID }).promise();
assert.ok(verify("sha256", Message, createPublicKey({ key: PublicKey, format: "der", type: "spki" }), signed.Signature));
console.log("the story holds");
