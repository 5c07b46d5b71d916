// @cuonghx.gu-tech/ethers-aws-kms-signer: endpoint, region and credentials are in the environment.
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import signers from "@cuonghx.gu-tech/ethers-aws-kms-signer";
import { check } from "./ethereum.mjs";

const KeyId = process.env.KEY_ID;
const { PublicKey } = await new KMSClient().send(new GetPublicKeyCommand({ KeyId }));
// It signs no transaction, since it compares `from` with an address of its own that has no capitals (version 0.9.1).
await check(new signers.AwsKmsSigner({ keyId: KeyId }), PublicKey, { messagesOnly: true });
