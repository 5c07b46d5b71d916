// @rumblefishdev/eth-signer-kms: endpoint, region and credentials are in the environment.
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import signers from "@rumblefishdev/eth-signer-kms";
import { check } from "./ethereum.mjs";

const KeyId = process.env.KEY_ID, kms = new KMSClient();
const { PublicKey } = await kms.send(new GetPublicKeyCommand({ KeyId }));
await check(await signers.KMSSigner.create(null, KeyId, kms), PublicKey);
