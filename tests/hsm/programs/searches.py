"""Use several keys in turn under the spy."""

from devices import arguments, permit, report

from hsmkms.model.enums import Operation


def main() -> None:
    """Report once everything was encrypted."""
    token, passed = arguments()
    device = token.open()
    for _ in range(3):
        for key in map(bytes.fromhex, passed["keys"]):
            device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b"")
    device.close()
    report("done")


if __name__ == "__main__":
    main()
