// aws-kms-ethers-signer (on aws-kms-signer): endpoint, region and credentials are in the environment.
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import * as signers from "aws-kms-ethers-signer";
import { check } from "./ethereum.mjs";

const KeyId = process.env.KEY_ID;
const { PublicKey } = await new KMSClient().send(new GetPublicKeyCommand({ KeyId }));
await check(new signers.KmsEthersSigner({ keyId: KeyId }), PublicKey);
