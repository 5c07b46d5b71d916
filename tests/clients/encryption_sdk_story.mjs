// The AWS Encryption SDK for JavaScript: a message under two keys, opened by each; the context must be the same.
import assert from "node:assert/strict";
import { buildClient, CommitmentPolicy, KmsKeyringNode } from "@aws-crypto/client-node";
import { CreateKeyCommand, KMSClient } from "@aws-sdk/client-kms";

const { encrypt, decrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);
const first = process.env.KEY_ARN;
const second = (await new KMSClient().send(new CreateKeyCommand({}))).KeyMetadata.Arn;
const encryptionContext = { purpose: "test" };
const both = new KmsKeyringNode({ generatorKeyId: first, keyIds: [second] });
const { result } = await encrypt(both, Buffer.alloc(1_000_000, "x"), { encryptionContext });
for (const key of [first, second]) {
    const { plaintext, messageHeader } = await decrypt(new KmsKeyringNode({ keyIds: [key] }), result);
    assert.ok(plaintext.equals(Buffer.alloc(1_000_000, "x")));
    assert.equal(messageHeader.encryptionContext.purpose, "test");
}
const forged = Buffer.from(result);
forged[forged.indexOf("test")] ^= 1;
await assert.rejects(decrypt(new KmsKeyringNode({ keyIds: [first] }), forged));
console.log("the story holds");
