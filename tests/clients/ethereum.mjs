// What every Ethereum signer must do: its address is the key's, and its signatures are those of that address.
import assert from "node:assert/strict";
import { createPublicKey } from "node:crypto";
import { createRequire } from "node:module";

const ethers = createRequire(import.meta.url)("ethers"); // version 5 or 6, whichever the signer is written for
const computeAddress = ethers.computeAddress ?? ethers.utils.computeAddress;
const verifyMessage = ethers.verifyMessage ?? ethers.utils.verifyMessage;
const parse = ethers.Transaction ? (raw) => ethers.Transaction.from(raw) : ethers.utils.parseTransaction;

// The point as node:crypto reads it from the key's SubjectPublicKeyInfo.
export const addressOf = (spki) => {
    const { x, y } = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" }).export({ format: "jwk" });
    return computeAddress(`0x04${Buffer.from(x, "base64url").toString("hex")}${Buffer.from(y, "base64url").toString("hex")}`);
};

export const check = async (signer, spki, { messagesOnly = false } = {}) => {
    const address = addressOf(spki);
    assert.equal((await signer.getAddress()).toLowerCase(), address.toLowerCase());
    for (let time = 0; time < 8; time++) { // low and high s, both recovery ids
        const message = `message ${time}`;
        const signature = (await signer.signMessage(message)).replace(/^(0x)?/, "0x"); // aws-kms-signer leaves it out
        assert.equal(verifyMessage(message, signature), address);
        if (messagesOnly) continue;
        const signed = await signer.signTransaction({
            type: 0, to: "0x000000000000000000000000000000000000dEaD", value: 1, nonce: time, gasLimit: 21000, gasPrice: 1, chainId: 1,
        });
        assert.equal(parse(signed).from, address);
    }
    console.log("the story holds");
};
