// decrypt-kms-env: variables that begin with secure: are decrypted in place.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { promisify } from "node:util";
import AWS from "aws-sdk";
import decrypt from "decrypt-kms-env";

const require = createRequire(import.meta.url);
const options = { endpoint: process.env.AWS_ENDPOINT_URL_KMS }; // this SDK reads no variable for it
createRequire(require.resolve("decrypt-kms-env"))("aws-sdk").config.kms = options;
const { CiphertextBlob } = await new AWS.KMS(options).encrypt({ KeyId: process.env.KEY_ID, Plaintext: "hunter2" }).promise();
const env = { AWS_DEFAULT_REGION: process.env.AWS_REGION, PASSWORD: `secure:${CiphertextBlob.toString("base64")}` };
const shown = await promisify(decrypt)(env);
assert.deepEqual([env.PASSWORD, shown.PASSWORD], ["hunter2", "************ter2"]);
console.log("the story holds");
