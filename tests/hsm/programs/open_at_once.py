"""Open the token repeatedly at the same instant as other processes, and use it."""

from devices import arguments, permit, report, wait_for_start

from hsmkms.model.enums import Operation


def main() -> None:
    """Report the number of successes."""
    token, passed = arguments()
    key = bytes.fromhex(passed["key"])
    wait_for_start()
    device = token.open()
    iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"at once", b"")
    opened = device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"")
    device.close()
    report(opened.decode())


if __name__ == "__main__":
    main()
