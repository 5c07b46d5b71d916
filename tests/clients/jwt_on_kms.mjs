// jwt-on-kms: a token that node:crypto verifies (it names the algorithm as KMS does, not as JOSE). Endpoint, region and credentials are in the environment.
import assert from "node:assert/strict";
import { constants, createPublicKey, verify } from "node:crypto";
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import jwt from "jwt-on-kms";

const KeyId = process.env.KEY_ID;
const token = await jwt.sign({ hello: "world" }, KeyId);
const { PublicKey } = await new KMSClient().send(new GetPublicKeyCommand({ KeyId }));
const key = createPublicKey({ key: Buffer.from(PublicKey), format: "der", type: "spki" });
assert.ok((await jwt.verify(token, KeyId)).isValid);
const [head, body, signature] = token.split(".");
const padding = constants.RSA_PKCS1_PSS_PADDING;
assert.ok(verify("sha256", Buffer.from(`${head}.${body}`), { key, padding }, Buffer.from(signature, "base64url")));
const other = Buffer.from(JSON.stringify({ ...JSON.parse(Buffer.from(body, "base64url")), hello: "you" })).toString("base64url");
assert.ok(!(await jwt.verify([head, other, signature].join("."), KeyId)).isValid);
console.log("the story holds");
