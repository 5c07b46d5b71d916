// aws4, over node:http with a connection that is kept: encrypts, decrypts, and an error.
import assert from "node:assert/strict";
import http from "node:http";
import aws4 from "aws4";

const { hostname, port, host } = new URL(process.env.AWS_ENDPOINT_URL_KMS);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const call = (operation, members) => new Promise((resolve, reject) => {
    const options = aws4.sign({
        service: "kms", region: process.env.AWS_REGION, method: "POST", path: "/", body: JSON.stringify(members),
        headers: { Host: host, "Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": `TrentService.${operation}` },
    });
    http.request({ ...options, hostname, port, agent }, async (answer) => {
        resolve({ status: answer.statusCode, ...JSON.parse((await answer.toArray()).join("")) });
    }).on("error", reject).end(options.body);
});
const Plaintext = Buffer.from("plain").toString("base64");
const sealed = await call("Encrypt", { KeyId: process.env.KEY_ID, Plaintext });
const opened = await call("Decrypt", { CiphertextBlob: sealed.CiphertextBlob });
assert.deepEqual([opened.status, opened.Plaintext], [200, Plaintext]);
const refused = await call("Decrypt", { CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: { purpose: "theft" } });
assert.deepEqual([refused.status, refused.__type], [400, "InvalidCiphertextException"]);
agent.destroy();
console.log("the story holds");
