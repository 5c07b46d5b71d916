// @solana/keychain-aws-kms: messages signed by Ed25519, verified by node:crypto. Endpoint and the rest are in the environment.
import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import { getAddressDecoder } from "@solana/addresses";
import { AwsKmsSigner } from "@solana/keychain-aws-kms";

const keyId = process.env.KEY_ID;
const { PublicKey } = await new KMSClient().send(new GetPublicKeyCommand({ KeyId: keyId }));
const key = createPublicKey({ key: Buffer.from(PublicKey), format: "der", type: "spki" });
const publicKey = getAddressDecoder().decode(Buffer.from(key.export({ format: "jwk" }).x, "base64url"));
const signer = new AwsKmsSigner({ keyId, publicKey });
assert.ok(await signer.isAvailable());
const messages = ["one", "two"].map((text) => ({ content: new TextEncoder().encode(text), signatures: {} }));
for (const [number, signed] of (await signer.signMessages(messages)).entries()) {
    assert.ok(verify(null, messages[number].content, key, signed[publicKey]));
}
console.log("the story holds");
