// @nexusmutual/ethers-v6-aws-kms-signer: the endpoint is in the environment, the rest is passed.
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import * as signers from "@nexusmutual/ethers-v6-aws-kms-signer";
import { check } from "./ethereum.mjs";

const KeyId = process.env.KEY_ID;
const { AWS_REGION: region, AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = process.env;
const credentials = { region, accessKeyId, secretAccessKey, kmsKeyId: KeyId };
const { PublicKey } = await new KMSClient().send(new GetPublicKeyCommand({ KeyId }));
await check(new signers.AwsKmsSigner(credentials, null), PublicKey);
