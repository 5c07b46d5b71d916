// @aws-lite/client, which signs and sends by itself: encrypts, decrypts, an error.
import assert from "node:assert/strict";
import awsLite from "@aws-lite/client";

const { hostname: host, port, protocol } = new URL(process.env.AWS_ENDPOINT_URL_KMS);
const aws = await awsLite({ region: process.env.AWS_REGION, autoloadPlugins: false });
const call = (operation, payload) => aws({
    service: "kms", host, port: Number(port), protocol: protocol.slice(0, -1),
    headers: { "X-Amz-Target": `TrentService.${operation}`, "Content-Type": "application/x-amz-json-1.1" },
    payload, awsjson: false, // that is DynamoDB's JSON, with types
});
const Plaintext = Buffer.from("plain").toString("base64");
const sealed = (await call("Encrypt", { KeyId: process.env.KEY_ID, Plaintext })).payload;
assert.equal((await call("Decrypt", { CiphertextBlob: sealed.CiphertextBlob })).payload.Plaintext, Plaintext);
await assert.rejects(call("Decrypt", { CiphertextBlob: Plaintext }), (error) => {
    assert.match(JSON.stringify({ ...error, message: error.message }), /InvalidCiphertextException/);
    return error.statusCode === 400;
});
console.log("the story holds");
