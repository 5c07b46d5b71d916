// @tradetrust-tt/ethers-aws-kms-signer: endpoint, region and credentials are in the environment.
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import signers from "@tradetrust-tt/ethers-aws-kms-signer";
import { check } from "./ethereum.mjs";

const KeyId = process.env.KEY_ID;
const { PublicKey } = await new KMSClient().send(new GetPublicKeyCommand({ KeyId }));
await check(new signers.AwsKmsSigner({ keyId: KeyId }), PublicKey);
