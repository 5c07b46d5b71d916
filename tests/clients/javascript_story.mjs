// The AWS SDK for JavaScript against an endpoint: names, data, rotation, errors as classes, pages. Prints one line.
import assert from "node:assert/strict";
import {
    CreateAliasCommand, CreateKeyCommand, DecryptCommand, DescribeKeyCommand, EncryptCommand, GenerateDataKeyCommand,
    InvalidCiphertextException, KMSClient, NotFoundException, RotateKeyOnDemandCommand,
    ScheduleKeyDeletionCommand, UpdateAliasCommand, paginateListKeys,
} from "@aws-sdk/client-kms";

const client = new KMSClient(); // endpoint, region and credentials are in the environment
const newKey = async () => (await client.send(new CreateKeyCommand({ Description: "d\u00e9j\u00e0 vu" }))).KeyMetadata;
const plaintext = new TextEncoder().encode("from JavaScript");
const EncryptionContext = { purpose: "test" };

const first = await newKey();
assert.equal(first.Description, "d\u00e9j\u00e0 vu");
assert.ok(first.CreationDate instanceof Date && Math.abs(first.CreationDate - Date.now()) < 600_000);
await client.send(new CreateAliasCommand({ AliasName: "alias/javascript", TargetKeyId: first.KeyId }));
const sealed = await client.send(
    new EncryptCommand({ KeyId: "alias/javascript", Plaintext: plaintext, EncryptionContext }),
);

await client.send(new RotateKeyOnDemandCommand({ KeyId: first.KeyId }));
const second = await newKey();
await client.send(new UpdateAliasCommand({ AliasName: "alias/javascript", TargetKeyId: second.KeyId }));
assert.equal((await client.send(new DescribeKeyCommand({ KeyId: "alias/javascript" }))).KeyMetadata.Arn, second.Arn);
const opened = await client.send(new DecryptCommand({ CiphertextBlob: sealed.CiphertextBlob, EncryptionContext }));
assert.deepEqual([Buffer.from(opened.Plaintext), opened.KeyId], [Buffer.from(plaintext), first.Arn]);

const data = await client.send(new GenerateDataKeyCommand({ KeyId: second.KeyId, KeySpec: "AES_256" }));
assert.equal(data.Plaintext.length, 32);

await assert.rejects(
    client.send(new DecryptCommand({ CiphertextBlob: sealed.CiphertextBlob })),
    InvalidCiphertextException,
);
await assert.rejects(client.send(new DescribeKeyCommand({ KeyId: "alias/nobody" })), (error) => {
    assert.ok(error instanceof NotFoundException);
    assert.match(error.message, /alias\/nobody is not found/);
    assert.match(error.$metadata.requestId, /^[0-9a-f-]{36}$/);
    return error.$metadata.httpStatusCode === 400;
});

const waiting = await client.send(new ScheduleKeyDeletionCommand({ KeyId: first.KeyId, PendingWindowInDays: 7 }));
assert.equal(waiting.KeyState, "PendingDeletion");
assert.ok(waiting.DeletionDate instanceof Date);

const listed = [];
for await (const page of paginateListKeys({ client, pageSize: 1 }, {})) {
    listed.push(...page.Keys.map((each) => each.KeyId));
}
assert.ok(listed.includes(first.KeyId) && listed.includes(second.KeyId));
console.log("the story holds");
