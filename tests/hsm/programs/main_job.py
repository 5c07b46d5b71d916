"""Run the main job under the spy: create a key, encrypt, decrypt, attest, authenticate, destroy."""

from devices import arguments, new_key, permit, report

from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct

PLAINTEXT = b"a line of a real file"
AAD = b"purpose=test"


def main() -> None:
    """Run it once; report the CKA_ID, the ciphertext format and the decrypted plaintext."""
    token, _ = arguments()
    device = token.open()
    key = new_key(device, "hsmkms spied key")
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, PLAINTEXT, AAD)
    opened = device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, AAD)
    mac_key = bytes(16)
    device.own.generate_mac_key(permit(OperatorAct.INITIALISE, mac_key), mac_key, "hsmkms spied installation key")
    device.own.mac(permit(OperatorAct.OPEN, mac_key), mac_key, b"challenge")
    device.ciphers.random(permit(Operation.GENERATE_RANDOM), 32)
    _, deviations = device.keys.attest(key)
    device.keys.inventory(key)
    device.keys.destroy(permit(OperatorAct.RECONCILE, key), key)
    device.close()
    format_used = device.profile.cipher_format
    report({"key": key.hex(), "cipher_format": format_used, "opened": opened.decode(), "deviations": deviations})


if __name__ == "__main__":
    main()
