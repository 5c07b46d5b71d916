"""Encrypt, decrypt and draw random bytes on one device in many threads at once."""

import sys
import threading
from itertools import cycle, islice

from devices import arguments, new_key, permit, report

from hsmkms.hsm.device import TokenDevice
from hsmkms.model.enums import Operation


def work(device: TokenDevice, keys: list[bytes], rounds: int, failures: list[str]) -> None:
    """Run ``rounds`` operations of mixed kinds; record the first failure."""
    try:
        for turn, key in enumerate(islice(cycle(keys), rounds // 4)):
            plaintext = turn.to_bytes(4) * (1 + turn % 200)
            iv, body = device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, plaintext, b"aad")
            opened = device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, iv, body, b"aad")
            again = device.ciphers.decrypt(permit(Operation.RE_ENCRYPT, key), key, iv, body, b"aad")
            drawn = device.ciphers.random(permit(Operation.GENERATE_RANDOM), 32)
            if not opened == again == plaintext or len(drawn) != 32:
                failures.append("a wrong answer")
    except Exception as exc:  # noqa: BLE001 - whatever it is, the test must see it
        failures.append(repr(exc))


def main() -> None:
    """Report the failures, and the number of opened sessions."""
    token, passed = arguments()
    sys.setswitchinterval(1e-4)
    device = token.open(max_sessions=passed["sessions"])
    keys = [new_key(device) for _ in range(3)]
    failures: list[str] = []
    threads = [
        threading.Thread(target=work, args=(device, keys, passed["rounds"], failures)) for _ in range(passed["threads"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = device.connection.pool._opened
    device.close()
    report({"failures": failures, "sessions": opened})


if __name__ == "__main__":
    main()
