// sops-decoder: opens a file that sops has encrypted. Endpoint, region and credentials are in the environment.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import sops from "sops-decoder";

const plain = { password: "hunter2", ports: [80, 443], open: true };
writeFileSync("plain.json", JSON.stringify(plain));
writeFileSync("sealed.json", execFileSync("sops", ["encrypt", "--kms", process.env.KEY_ARN, "plain.json"]));
assert.deepEqual(await sops.decodeFile("sealed.json"), plain);
console.log("the story holds");
