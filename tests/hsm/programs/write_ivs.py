"""Encrypt many times with one key and write every used IV to a file."""

from pathlib import Path

from devices import arguments, permit, report, wait_for_start

from hsmkms.model.enums import Operation


def main() -> None:
    """Report the number of IVs."""
    token, passed = arguments()
    key = bytes.fromhex(passed["key"])
    device = token.open()
    wait_for_start()
    leave = permit(Operation.ENCRYPT, key)
    ivs = [device.ciphers.encrypt(leave, key, b"x", b"")[0] for _ in range(passed["count"])]
    device.close()
    with Path(passed["folder"], f"{ivs[0].hex()}.ivs").open("wb") as file:
        file.write(b"".join(ivs))
    report(len(ivs))


if __name__ == "__main__":
    main()
