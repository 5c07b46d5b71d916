// ethers-aws-kms-signer, for ethers 5 and the AWS SDK 2, which takes the endpoint with the credentials.
import AWS from "aws-sdk";
import signers from "ethers-aws-kms-signer";
import { check } from "./ethereum.mjs";

const { AWS_ENDPOINT_URL_KMS: endpoint, AWS_REGION: region, KEY_ID: keyId } = process.env;
const { PublicKey } = await new AWS.KMS({ endpoint, region }).getPublicKey({ KeyId: keyId }).promise();
await check(new signers.AwsKmsSigner({ endpoint, region, keyId }), PublicKey);
