"""Destroy a key from another process, and on request create one with the same CKA_ID again."""

from devices import arguments, permit, report

from hsmkms.model.enums import Operation
from hsmkms.model.permit import OperatorAct


def main() -> None:
    """Report whether the key was on the token."""
    token, passed = arguments()
    key = bytes.fromhex(passed["key"])
    device = token.open()
    there = device.keys.destroy(permit(OperatorAct.RECONCILE, key), key)
    if passed["again"]:
        device.keys.generate_backing_key(permit(Operation.CREATE_KEY, key), key, "made again")
    device.close()
    report(there)


if __name__ == "__main__":
    main()
