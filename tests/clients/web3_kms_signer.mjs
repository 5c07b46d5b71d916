// @web3-kms-signer: makes its own key, then signs a message and a transaction. Endpoint and the rest are in the environment.
import assert from "node:assert/strict";
import { GetPublicKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import { Signer } from "@web3-kms-signer/core";
import { KMSProviderAWS } from "@web3-kms-signer/kms-provider-aws";
import { KMSWallets } from "@web3-kms-signer/kms-wallets";
import { verifyMessage } from "ethers";
import { addressOf } from "./ethereum.mjs";

const provider = new KMSProviderAWS({});
const KeyId = await provider.createKey();
const { PublicKey } = await new KMSClient().send(new GetPublicKeyCommand({ KeyId }));
const wallets = new KMSWallets(provider);
const address = `0x${(await wallets.getAddressHex(KeyId)).replace(/^0x/, "")}`;
assert.equal(address.toLowerCase(), addressOf(PublicKey).toLowerCase());
const signer = new Signer(wallets, 1);
for (const message of ["one", "two", "three", "four"]) {
    const signature = await signer.signMessage({ keyId: KeyId, address: Buffer.from(address.slice(2), "hex") }, message);
    assert.equal(verifyMessage(message, signature).toLowerCase(), address.toLowerCase());
}
console.log("the story holds");
