"""Create key pairs and an HMAC key under the spy, and use them as the API does."""

import hashlib
import os

from cryptography.hazmat.primitives.asymmetric import ec
from devices import arguments, permit, report

from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.backing_keys import Kind
from hsmkms.model.enums import EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, Operation, SigningAlgorithm

DIGEST = hashlib.sha256(b"m").digest()


def new(device: TokenDevice, kind: Kind) -> bytes:
    """Create a key; return its CKA_ID."""
    cka_id = os.urandom(16)
    device.keys.generate_backing_key(permit(Operation.CREATE_KEY, cka_id), cka_id, "hsmkms spied pair", kind)
    return cka_id


def main() -> None:
    """Create and use one key of each kind; report plaintext, shared secret, and whether all results were right."""
    token, _ = arguments()
    device = token.open()
    signer = new(device, (KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY))
    opener = new(device, (KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT))
    agreer = new(device, (KeySpec.ECC_NIST_P256, KeyUsage.KEY_AGREEMENT))
    maker = new(device, (KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC))
    signed = device.pairs.sign(permit(Operation.SIGN, signer), signer, SigningAlgorithm.RSASSA_PSS_SHA_256, DIGEST)
    plaintext, right = os.urandom(32), [len(signed) == 256]
    for algorithm in (EncryptionAlgorithm.RSAES_OAEP_SHA_1, EncryptionAlgorithm.RSAES_OAEP_SHA_256):
        shown = permit(Operation.RE_ENCRYPT, opener)
        block = device.pairs.encrypt_oaep(shown, opener, KeySpec.RSA_2048, algorithm, plaintext)
        right.append(device.pairs.decrypt_oaep(shown, opener, KeySpec.RSA_2048, algorithm, block) == plaintext)
    peer = ec.generate_private_key(ec.SECP256R1()).public_key()
    secret = device.pairs.agree(permit(Operation.DERIVE_SHARED_SECRET, agreer), agreer, KeySpec.ECC_NIST_P256, peer)
    device.pairs.generate_mac(permit(Operation.GENERATE_MAC, maker), maker, MacAlgorithm.HMAC_SHA_256, b"m")
    device.close()
    report({"right": all(right), "secret": secret.hex()})


if __name__ == "__main__":
    main()
