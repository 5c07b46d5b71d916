// @effect-aws/client-kms: encrypts, decrypts, and an error as a tagged value. The endpoint is in the environment.
import assert from "node:assert/strict";
import { KMS } from "@effect-aws/client-kms";
import { Effect } from "effect";

const KeyId = process.env.KEY_ARN;
const run = (effect) => Effect.runPromise(Effect.provide(effect, KMS.defaultLayer));
const sealed = await run(KMS.encrypt({ KeyId, Plaintext: Buffer.from("plain") }));
const opened = await run(KMS.decrypt({ CiphertextBlob: sealed.CiphertextBlob }));
assert.deepEqual([Buffer.from(opened.Plaintext).toString(), opened.KeyId], ["plain", KeyId]);
const refused = await run(Effect.flip(KMS.describeKey({ KeyId: "alias/nobody" })));
assert.equal(refused._tag, "NotFoundException");
console.log("the story holds");
