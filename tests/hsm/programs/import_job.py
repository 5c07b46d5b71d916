"""Import under the spy: a wrapping key, material by each possible algorithm, and its use."""

import os
from typing import Any

import wrapped
from devices import arguments, permit, report

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.imports.unwrapping import WrappedMaterial
from hsmkms.model.enums import Operation, WrappingAlgorithm

IMPORT = Operation.IMPORT_KEY_MATERIAL


def bring(
    device: TokenDevice, key: bytes, public_key: bytes, algorithm: WrappingAlgorithm, secret: bytes
) -> dict[str, Any]:
    """Import by one algorithm; return the secrets to search for in the log, and whether the key works."""
    new = os.urandom(16)
    material = WrappedMaterial(key, algorithm, wrapped.wrap(public_key, algorithm, secret))
    shown = permit(IMPORT, key, new)
    fingerprints = device.imports.fingerprints(shown, material, "a key id")
    device.imports.unwrap_backing_key(shown, material, new, "hsmkms spied import")
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, new), new, b"plaintext", b"")
    return {
        "on_device": device.imports.on_device(algorithm),
        "fingerprints": {name: output.hex() for name, output in fingerprints.items()},
        "expected": {name: output.hex() for name, output in wrapped.expected_fingerprints(secret, "a key id").items()},
        "works": device.ciphers.decrypt(permit(Operation.DECRYPT, new), new, iv, body, b"") == b"plaintext",
        "deviations": device.keys.attest(new, imported=True)[1],
    }


def refuse(device: TokenDevice, key: bytes) -> str:
    """Import damaged material; return the error's name."""
    material = WrappedMaterial(key, WrappingAlgorithm.RSAES_OAEP_SHA_1, os.urandom(256))
    try:
        device.imports.fingerprints(permit(IMPORT, key), material, "a key id")
    except HsmKmsError as exc:
        return type(exc).__name__
    return "no error"


def main() -> None:
    """Import by every algorithm; report the outcomes."""
    token, passed = arguments()
    device = token.open(host_unwrap=passed["host_unwrap"])
    key, secret = os.urandom(16), os.urandom(32)
    public_key = device.imports.generate_wrapping_key(
        permit(Operation.GET_PARAMETERS_FOR_IMPORT, key), key, "hsmkms spied wrapping key", 2048
    )
    imported = {
        algorithm: bring(device, key, public_key, algorithm, secret)
        for algorithm in device.imports.wrapping_algorithms()
    }
    refusal = refuse(device, key)
    device.imports.destroy_wrapping_key(permit(Operation.IMPORT_KEY_MATERIAL, key), key)
    device.close()
    report({"imports": imported, "refusal": refusal, "secret": secret.hex()})


if __name__ == "__main__":
    main()
