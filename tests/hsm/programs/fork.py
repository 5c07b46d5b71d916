"""Fork a process that has a device open, and report what the child can do with it."""

import json
import os
import warnings
from collections.abc import Callable
from typing import Any

from devices import Token, arguments, new_key, permit, report

from hsmkms.hsm.crypto.iv import IvSource
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.imports.unwrapping import WrappedMaterial
from hsmkms.model.cipher_format import CipherFormat, new_cka_id
from hsmkms.model.enums import Operation, WrappingAlgorithm
from hsmkms.model.permit import OperatorAct


def outcome(act: Callable[[], object]) -> str:
    """Return the name of the error that was raised, or "done"."""
    try:
        act()
    except Exception as exc:  # noqa: BLE001 - the test compares the name
        return type(exc).__name__
    return "done"


def material(wrapping_key: bytes) -> WrappedMaterial:
    """Return wrapped material to import."""
    return WrappedMaterial(wrapping_key, WrappingAlgorithm.RSAES_OAEP_SHA_1, bytes(256))


def in_child(token: Token, device: TokenDevice, ivs: IvSource, key: bytes) -> dict[str, Any]:
    """Use the parent's device, then one that the child opens."""
    other = new_cka_id(device.profile.cipher_format)
    session = None
    inherited = {
        "encrypt": lambda: device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b""),
        "decrypt": lambda: device.ciphers.decrypt(permit(Operation.DECRYPT, key), key, bytes(12), bytes(20), b""),
        "random": lambda: device.ciphers.random(permit(Operation.GENERATE_RANDOM), 4),
        "generate": lambda: device.keys.generate_backing_key(permit(Operation.CREATE_KEY, other), other, "child"),
        "wrapping_key": lambda: device.imports.generate_wrapping_key(
            permit(Operation.GET_PARAMETERS_FOR_IMPORT, other), other, "child", 2048
        ),
        "destroy_wrapping_key": lambda: device.imports.destroy_wrapping_key(permit(OperatorAct.RECONCILE, key), key),
        "unwrap": lambda: device.imports.unwrap_backing_key(
            permit(Operation.IMPORT_KEY_MATERIAL, key, other), material(key), other, "child"
        ),
        "wrapping_algorithms": device.imports.wrapping_algorithms,
        "generate_mac_key": lambda: device.own.generate_mac_key(permit(OperatorAct.INITIALISE, other), other, "child"),
        "mac": lambda: device.own.mac(permit(OperatorAct.OPEN, key), key, b""),
        "destroy": lambda: device.keys.destroy(permit(OperatorAct.RECONCILE, key), key),
        "holds": lambda: device.keys.holds(key),
        "inventory": lambda: device.keys.inventory(key),
        "attest": lambda: device.keys.attest(key),
        "checks": device.connection.checks,
        "mechanisms": device.connection.mechanisms,
        "limits": device.connection.limits,
        "pool": device.connection.pool.take,
        "slots": device.connection.module.slots,
        "ivs": lambda: ivs.next(session),
    }
    if device.profile.cipher_format is CipherFormat.AES_256_GCM:
        inherited["fingerprints"] = lambda: device.imports.fingerprints(
            permit(Operation.IMPORT_KEY_MATERIAL, key), material(key), "id"
        )
    outcomes: dict[str, Any] = {name: outcome(act) for name, act in inherited.items()}
    outcomes["close"] = outcome(device.close)
    own = token.open()
    outcomes["own"] = [own.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b"")[0].hex() for _ in range(100)]
    own.close()
    return outcomes


def main() -> None:
    """Report the child's outcomes, and the IVs that the parent used before and after."""
    token, _ = arguments()
    device = token.open()
    key = new_key(device)
    ivs = IvSource()
    with device.connection.pool.session() as session:
        ivs.next(session)

    def encrypt(times: int) -> list[str]:
        return [device.ciphers.encrypt(permit(Operation.ENCRYPT, key), key, b"x", b"")[0].hex() for _ in range(times)]

    used = encrypt(3)
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 and later: the module may have threads, as opencryptoki 3.23 has
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:
        with os.fdopen(writing, "w") as pipe:
            json.dump(in_child(token, device, ivs, key), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        outcomes = json.load(pipe)
    _, status = os.waitpid(child, 0)
    used += encrypt(100)
    device.close()
    report({"child": outcomes, "status": status, "parent": used})


if __name__ == "__main__":
    main()
