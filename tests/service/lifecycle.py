"""What the tests of rotation, deletion and import ask for again and again, in one line each."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NoReturn

import pytest
import wrapped
from service_sites import REGION, START, StoppedClock, mac_key, new_key

from hsmkms.errors import HsmKmsError, TokenUnavailableError
from hsmkms.kms import Kms
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import DecryptRequest
from hsmkms.model.deletion import CancelKeyDeletionRequest, ScheduleKeyDeletionRequest
from hsmkms.model.enums import ExpirationModel, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.importing import (
    DeleteImportedKeyMaterialRequest,
    GetParametersForImportRequest,
    GetParametersForImportResponse,
    ImportKeyMaterialRequest,
)
from hsmkms.model.keys import (
    CreateKeyRequest,
    DescribeKeyRequest,
    DisableKeyRequest,
    EnableKeyRequest,
    KeyMetadata,
)
from hsmkms.model.records import KeyRecord
from hsmkms.model.rotation import (
    DisableKeyRotationRequest,
    EnableKeyRotationRequest,
    GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse,
    ListKeyRotationsRequest,
    RotateKeyOnDemandRequest,
    RotationsListEntry,
)
from hsmkms.rules.material import parse_label
from hsmkms.service.operator.sweeper import Report, StepKind, StepOutcome
from hsmkms.store import changes, keys

ALGORITHM = WrappingAlgorithm.RSAES_OAEP_SHA_1
MATERIAL = bytes(range(32))

DONE, GONE, HELD, FAILED, DUE = (
    StepOutcome.DONE,
    StepOutcome.GONE,
    StepOutcome.HELD,
    StepOutcome.FAILED,
    StepOutcome.DUE,
)
EXPIRY, RECOVERY, ROTATION = StepKind.EXPIRY, StepKind.RECOVERY, StepKind.ROTATION
WRAPPING_KEY, DELETION, DESTRUCTION = StepKind.WRAPPING_KEY, StepKind.DELETION, StepKind.DESTRUCTION
YEAR = timedelta(days=365)


# -- keys -----------------------------------------------------------------------------------------------------------


def described(kms: Kms, key_id: str, caller: Caller | None = None) -> KeyMetadata:
    """The metadata of a key."""
    return kms.describe_key(DescribeKeyRequest(key_id=key_id), caller).key_metadata


def record_of(kms: Kms, key_id: str) -> KeyRecord:
    """A key as the database has it."""
    with kms._core.store.reading() as conn:
        record = keys.fetch(conn, REGION, key_id)
    assert record is not None
    return record


def disable(kms: Kms, key_id: str) -> None:
    """Disable a key."""
    kms.disable_key(DisableKeyRequest(key_id=key_id))


def enable(kms: Kms, key_id: str) -> None:
    """Enable a key."""
    kms.enable_key(EnableKeyRequest(key_id=key_id))


def material_of(kms: Kms, key_id: str) -> str | None:
    """The id of the material that encrypts now."""
    return described(kms, key_id).current_key_material_id


def named_by(kms: Kms, ciphertext: bytes) -> str | None:
    """The id of the material under which a ciphertext was made; it must decrypt."""
    opened = kms.decrypt(DecryptRequest(ciphertext_blob=ciphertext))
    assert opened.plaintext == b"secret"
    return opened.key_material_id


# -- rotation -------------------------------------------------------------------------------------------------------


def rotate(kms: Kms, key_id: str) -> None:
    """Rotate on demand."""
    kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=key_id))


def switch_on(kms: Kms, key_id: str, days: int | None = None) -> None:
    """Switch automatic rotation on."""
    assert kms.enable_key_rotation(EnableKeyRotationRequest(key_id=key_id, rotation_period_in_days=days)) is None


def switch_off(kms: Kms, key_id: str) -> None:
    """Switch automatic rotation off."""
    assert kms.disable_key_rotation(DisableKeyRotationRequest(key_id=key_id)) is None


def status_of(kms: Kms, key_id: str) -> GetKeyRotationStatusResponse:
    """The answer of GetKeyRotationStatus."""
    return kms.get_key_rotation_status(GetKeyRotationStatusRequest(key_id=key_id))


def next_date(kms: Kms, key_id: str) -> datetime | None:
    """When the key rotates next."""
    return status_of(kms, key_id).next_rotation_date


def rotations(kms: Kms, key_id: str, **members: object) -> list[RotationsListEntry]:
    """One page of ListKeyRotations."""
    return kms.list_key_rotations(ListKeyRotationsRequest(key_id=key_id, **members)).rotations


# -- deletion -------------------------------------------------------------------------------------------------------


def schedule(kms: Kms, key_id: str, days: int | None = None) -> datetime:
    """Schedule a deletion; its date."""
    request = ScheduleKeyDeletionRequest(key_id=key_id, pending_window_in_days=days)
    return kms.schedule_key_deletion(request).deletion_date


def cancel(kms: Kms, key_id: str) -> None:
    """Cancel a deletion."""
    kms.cancel_key_deletion(CancelKeyDeletionRequest(key_id=key_id))


# -- imported material ----------------------------------------------------------------------------------------------


def new_empty_key(kms: Kms) -> str:
    """Create a key whose material is to be imported; its id."""
    return kms.create_key(CreateKeyRequest(origin="EXTERNAL")).key_metadata.key_id


def parameters_for(kms: Kms, key_id: str, caller: Caller | None = None) -> GetParametersForImportResponse:
    """What an import needs."""
    request = GetParametersForImportRequest(
        key_id=key_id, wrapping_algorithm=ALGORITHM, wrapping_key_spec=WrappingKeySpec.RSA_2048
    )
    return kms.get_parameters_for_import(request, caller)


def request_to_import(
    kms: Kms,
    key_id: str,
    material: bytes = MATERIAL,
    valid_to: datetime | None = None,
    caller: Caller | None = None,
    **members: object,
) -> ImportKeyMaterialRequest:
    """The request that brings some material, under a wrapping key that ``caller`` asked for."""
    parameters = parameters_for(kms, key_id, caller)
    model = ExpirationModel.KEY_MATERIAL_EXPIRES if valid_to else ExpirationModel.KEY_MATERIAL_DOES_NOT_EXPIRE
    return ImportKeyMaterialRequest(
        key_id=key_id,
        import_token=parameters.import_token,
        encrypted_key_material=wrapped.wrap(parameters.public_key, ALGORITHM, material),
        expiration_model=model,
        valid_to=valid_to,
        **members,
    )


def new_imported_key(kms: Kms, material: bytes = MATERIAL, valid_to: datetime | None = None) -> str:
    """Create a key and import its material; its id."""
    key_id = new_empty_key(kms)
    kms.import_key_material(request_to_import(kms, key_id, material, valid_to))
    return key_id


def delete_material(kms: Kms, key_id: str) -> None:
    """Delete the current imported material."""
    kms.delete_imported_key_material(DeleteImportedKeyMaterialRequest(key_id=key_id))


# -- token, database and sweep --------------------------------------------------------------------------------------


def backing_keys(kms: Kms) -> Counter[str]:
    """How many backing keys of this installation each KMS key has on the token, by key id."""
    inventory = (parse_label(stored_key.label) for stored_key in kms._core.device.keys.inventory(mac_key(kms)))
    return Counter(stored_key.key_id for stored_key in inventory if stored_key is not None)


def epoch(kms: Kms) -> int:
    """The number of the last change to the control plane."""
    with kms._core.store.reading() as conn:
        return changes.latest(conn)


def outcomes(report: Report) -> list[tuple[StepKind, str | None, StepOutcome]]:
    """What a sweep did: (kind, key id, outcome)."""
    return [(step.kind, step.key_id, step.outcome) for step in report.steps]


def sweep(kms: Kms) -> list[tuple[StepKind, str | None, StepOutcome]]:
    """Do what is due, and return the steps."""
    return outcomes(kms.operator.maintain())


class StoppedError(Exception):
    """A procedure was stopped at a step, as by a kill."""


def stop_at(step: str) -> Callable[[str], None]:
    """A checkpoint that takes no step beyond that one."""

    def reached(done: str) -> None:
        if done.startswith(step):
            raise StoppedError(done)

    return reached


def away(*_: object, **__: object) -> NoReturn:
    """In the place of a procedure of a device whose token cannot be reached."""
    raise TokenUnavailableError("the token is away")


def at(step: str, act: Callable[[], object]) -> Callable[[str], None]:
    """A checkpoint that does something at a step, once."""
    done: list[str] = []

    def reached(name: str) -> None:
        if name.startswith(step) and not done:
            done.append(name)
            act()

    return reached


def outcome(call: Callable[[], object]) -> str:
    """The code of the error that a call raised, or ``ok``."""
    try:
        call()
    except HsmKmsError as exc:
        return exc.code
    return "ok"


def in_threads(count: int, call: Callable[[], object]) -> list[str]:
    """What came of the same call in many threads that begin together."""
    outcomes: list[str] = []
    gate = threading.Barrier(count)

    def work() -> None:
        gate.wait()
        outcomes.append(outcome(call))

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes)


class Due:
    """One key for each kind of work, all of it due at the same instant."""

    def __init__(self, kms: Kms, clock: StoppedClock) -> None:
        self.kms = kms
        clock.now = START
        self.rotating, self.interrupted = new_key(kms).key_id, new_key(kms).key_id
        switch_on(kms, self.rotating)
        clock.now = START + YEAR - timedelta(days=7)
        self.deleted = new_key(kms).key_id
        schedule(kms, self.deleted, 7)
        clock.now = START + YEAR - timedelta(hours=24)
        self.expiring = new_imported_key(kms, valid_to=START + YEAR)  # its wrapping key ends then as well
        clock.now = START + YEAR - timedelta(hours=1)
        kms._core.reached = stop_at("rotate 2")
        with pytest.raises(StoppedError):
            rotate(kms, self.interrupted)
        kms._core.reached = lambda _: None
        clock.now = START + YEAR

    @property
    def steps(self) -> list[tuple[StepKind, str]]:
        """What is due, in the order in which it must be done."""
        return [
            (EXPIRY, self.expiring),
            (RECOVERY, self.interrupted),
            (ROTATION, self.rotating),
            (WRAPPING_KEY, self.expiring),
            (DELETION, self.deleted),
        ]
