"""Create a key, wait for the test's signal, and encrypt once; the test may kill this process then."""

from devices import arguments, new_key, permit, report, wait_for_start

from hsmkms.model.enums import Operation


def main() -> None:
    """Report the decrypted plaintext."""
    token, _ = arguments()
    device = token.open()
    key = new_key(device)
    wait_for_start()
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"plaintext", b"")
    opened = device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"")
    device.close()
    report(opened.decode())


if __name__ == "__main__":
    main()
