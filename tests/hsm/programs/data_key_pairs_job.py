"""Generate data key pairs under the spy."""

from devices import arguments, permit, report

from hsmkms.hsm.device import TokenDevice
from hsmkms.model.enums import KeySpec, Operation

SPECS = (KeySpec.RSA_2048, KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_EDWARDS25519)


def made(device: TokenDevice, spec: KeySpec) -> bool:
    """Generate a pair; return whether both keys were returned."""
    return all(device.pairs.data_key_pair(permit(Operation.GENERATE_DATA_KEY_PAIR), spec))


def main() -> None:
    """Generate a pair of each type."""
    token, _ = arguments()
    device = token.open()
    right = [made(device, spec) for spec in SPECS]
    device.close()
    report({"right": all(right)})


if __name__ == "__main__":
    main()
