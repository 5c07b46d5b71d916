// aws4fetch, over node's fetch: encrypts, decrypts, and an error.
import assert from "node:assert/strict";
import { AwsClient } from "aws4fetch";

const { AWS_ENDPOINT_URL_KMS: url, AWS_REGION: region } = process.env;
const aws = new AwsClient({
    accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: process.env.AWS_SECRET_ACCESS_KEY, region, service: "kms",
});
const call = async (operation, members) => {
    const headers = { "Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": `TrentService.${operation}` };
    const answer = await aws.fetch(`${url}/`, { method: "POST", headers, body: JSON.stringify(members) });
    return { status: answer.status, ...(await answer.json()) };
};
const Plaintext = Buffer.from("plain").toString("base64");
const sealed = await call("Encrypt", { KeyId: process.env.KEY_ID, Plaintext, EncryptionContext: { "d\u00e9j\u00e0": "vu" } });
const opened = await call("Decrypt", { CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: { "d\u00e9j\u00e0": "vu" } });
assert.deepEqual([opened.status, opened.Plaintext], [200, Plaintext]);
const refused = await call("Decrypt", { CiphertextBlob: sealed.CiphertextBlob });
assert.deepEqual([refused.status, refused.__type], [400, "InvalidCiphertextException"]);
console.log("the story holds");
