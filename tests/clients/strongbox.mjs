// @springworks/strongbox: decrypts strings in templates. Endpoint, region and credentials are in the environment.
import assert from "node:assert/strict";
import { EncryptCommand, KMSClient } from "@aws-sdk/client-kms";
import strongbox from "@springworks/strongbox";

const sealed = await new KMSClient().send(
    new EncryptCommand({ KeyId: process.env.KEY_ID, Plaintext: new TextEncoder().encode("hunter2") }),
);
const secret = new strongbox.EncryptedString(Buffer.from(sealed.CiphertextBlob).toString("base64"), process.env.AWS_REGION);
assert.equal(await secret.decrypt(), "hunter2");
const url = new strongbox.StringTemplateWithEncryptedReplacements("me:{{password}}@host", { password: secret });
assert.equal(await url.decrypt(), "me:hunter2@host");
console.log("the story holds");
