"""Create and destroy keys all the time, as another application on the same token."""

import time

from devices import arguments, new_key, permit, report, wait_for_start

from hsmkms.model.permit import OperatorAct


def main() -> None:
    """Create and destroy keys for some seconds; report their number."""
    token, passed = arguments()
    device = token.open()
    wait_for_start()
    until = time.monotonic() + passed["seconds"]
    count = 0
    while time.monotonic() < until:
        keys = [new_key(device, "foreign") for _ in range(6)]
        for key in keys:
            device.keys.destroy(permit(OperatorAct.RECONCILE, key), key)
        count += len(keys)
    device.close()
    report(count)


if __name__ == "__main__":
    main()
