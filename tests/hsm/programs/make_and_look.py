"""Create keys in step with other processes, and check that theirs are visible."""

import os
import time
from pathlib import Path

from devices import arguments, new_key, report, wait_for_start


def main() -> None:
    """Report how many keys of the other processes are not visible here."""
    token, passed = arguments()
    folder, device, unseen = Path(passed["folder"]), token.open(), 0
    wait_for_start()
    for number in range(passed["rounds"]):
        made = new_key(device)
        (folder / f"{number}.{made.hex()}").touch()
        while len(others := list(folder.glob(f"{number}.*"))) < passed["processes"]:
            time.sleep(0.0005)
        unseen += sum(not device.keys.holds(bytes.fromhex(other.suffix[1:])) for other in others)
        (folder / f"seen-{number}.{os.getpid()}").touch()
        while len(list(folder.glob(f"seen-{number}.*"))) < passed["processes"]:
            time.sleep(0.0005)  # or the next key would make up for what is not seen
    device.close()
    report(unseen)


if __name__ == "__main__":
    main()
