"""Create a KMS key in steps, for all callers.

The token and the database share no transaction, so: intent, device, result. After a crash between the steps
``reconcile`` finds the intent and completes or removes it; a key that was reported as created has all three.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.errors import KMSInternalException
from hsmkms.hsm.objects.backing_keys import SYMMETRIC
from hsmkms.model.cipher_format import format_of
from hsmkms.model.enums import KeyManager, KeySpec, KeyState, KeyUsage, MaterialState, Origin
from hsmkms.model.ids import key_arn, new_key_id
from hsmkms.model.permit import Permit
from hsmkms.model.records import KeyRecord
from hsmkms.service.keys import destruction
from hsmkms.service.keys.backing import ATTEMPTS, HOME_MOVED, NOTHING_WAS_MADE, generated, label_of, record_quirks
from hsmkms.service.runtime.core import Core
from hsmkms.store import aliases, installation, keys, objects
from hsmkms.store.engine import Connection

Check = Callable[[Connection], None]
"""Raises if a key must not be created, given the state in this transaction."""

OVERTAKEN: Final = "the key was reconciled away while it was being made: create it again"


def unchecked(_: Connection) -> None:
    """Accept every state."""


class Nature(Struct, frozen=True, kw_only=True):
    """Properties of a key that never change."""

    spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT
    usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT
    origin: Origin = Origin.AWS_KMS
    multi_region: bool = False


def new_record(
    core: Core,
    region: str,
    nature: Nature,
    *,
    manager: KeyManager = KeyManager.CUSTOMER,
    description: str,
    policy: str,
) -> KeyRecord:
    """Return the record of a key about to be created, with its first backing key unless it is to be imported."""
    key_id = new_key_id(multi_region=nature.multi_region)
    imported = nature.origin is Origin.EXTERNAL
    now = core.clock()
    return KeyRecord(
        key_id=key_id,
        region=region,
        arn=key_arn(core.installation.account, region, key_id),
        spec=nature.spec,
        usage=nature.usage,
        origin=nature.origin,
        manager=manager,
        multi_region=nature.multi_region,
        primary_region=region if nature.multi_region else None,
        regions=(region,) if nature.multi_region else (),
        state=KeyState.PENDING_IMPORT if imported else KeyState.ENABLED,
        description=description,
        policy=policy,
        creation_date=now,
        version=0,
        materials=() if imported else (generated(core, key_id, (nature.spec, nature.usage), 1, MaterialState.CURRENT),),
    )


def make_empty(core: Core, record: KeyRecord, tags: Mapping[str, str], check: Check = unchecked) -> None:
    """Create a key without material: the token is not involved, so it is one transaction.

    ``check`` is called in that transaction, and may refuse.
    """
    with core.audited_and_sealed() as tx:
        check(tx)
        keys.insert_intent(tx, record, tags, "")
        keys.complete(tx, record.key_id, record.region)


def make(
    core: Core,
    record: KeyRecord,
    tags: Mapping[str, str],
    permit_for: Callable[[bytes], Permit],
    *,
    alias: str | None = None,
    check: Check = unchecked,
) -> KeyRecord | None:
    """Create a key whose backing key is generated on the token and never leaves it, with an alias if one is named.

    ``permit_for`` makes the permit for the backing key's CKA_ID. ``check`` is called in the transaction of the intent,
    and may refuse. Return the key's record; None if the alias was created concurrently: then there is no key. If the
    home moves to another token meanwhile, the new backing key is destroyed and generated there.
    """
    for _ in range(ATTEMPTS):
        record = _at_home(core, record)
        outcome = _make(core, record, tags, permit_for(record.materials[0].cka_id), alias, check)
        if outcome is not _Outcome.HOME_MOVED:
            return record if outcome is _Outcome.MADE else None
        core.tokens.may_have_moved()
    raise KMSInternalException(HOME_MOVED)


class _Outcome(Enum):
    MADE = auto()
    ALIAS_TAKEN = auto()
    HOME_MOVED = auto()
    OVERTAKEN = auto()


def _at_home(core: Core, record: KeyRecord) -> KeyRecord:
    """Return the record with its backing key on the present home token, in the ciphertext format of that token."""
    backing_key, home_id = record.materials[0], core.tokens.home_id
    cipher_format = core.tokens.of(home_id).profile.cipher_format
    if record.kind == SYMMETRIC and format_of(backing_key.cka_id) is not cipher_format:
        backing_key = generated(core, record.key_id, record.kind, backing_key.sequence, backing_key.state)
    return replace(record, materials=(replace(backing_key, token_id=home_id),))


def _make(
    core: Core, record: KeyRecord, tags: Mapping[str, str], permit: Permit, alias: str | None, check: Check
) -> _Outcome:
    backing_key = record.materials[0]
    device = core.tokens.of(backing_key.token_id)
    label = label_of(core, backing_key.token_id, record.key_id, record.region, backing_key.sequence)
    device.connection.ready_to_make()  # before the intent, which would be left behind if the token is away

    # 1. Intent: the key's row, invisible until it is complete.
    with core.audited_and_sealed() as tx:
        check(tx)
        keys.insert_intent(tx, record, tags, label)
    core.reached("create-key 1: intent")

    # 2. Device: the backing key, read back and compared.
    try:
        device.keys.generate_backing_key(permit, backing_key.cka_id, label, record.kind)
    except NOTHING_WAS_MADE:
        with core.audited_and_sealed() as tx:
            keys.drop_intent(tx, record.key_id, record.region)
        raise
    core.reached("create-key 2: device")

    # 3. Result: from here on the key exists.
    with core.audited_and_sealed() as tx:
        outcome = _complete(tx, record, alias)
        if outcome is _Outcome.MADE:
            record_quirks(core, record, backing_key.token_id, backing_key.material_id)
        if outcome in (_Outcome.ALIAS_TAKEN, _Outcome.HOME_MOVED):
            keys.drop_intent(tx, record.key_id, record.region)
            objects.doom(tx, backing_key.token_id, backing_key.cka_id, label, core.clock())
    if outcome is _Outcome.OVERTAKEN:
        raise KMSInternalException(OVERTAKEN)
    if outcome is not _Outcome.MADE:
        destruction.discard(core, backing_key.token_id, backing_key.cka_id)
        return outcome
    core.reached("create-key 3: result")
    return outcome


def _complete(tx: Connection, record: KeyRecord, alias: str | None) -> _Outcome:
    """Make the key live, with its alias, unless a concurrent change prevents it."""
    if not installation.is_home(tx, record.materials[0].token_id):
        return _Outcome.HOME_MOVED
    if alias is not None and aliases.fetch(tx, record.region, alias) is not None:
        return _Outcome.ALIAS_TAKEN
    if not keys.complete(tx, record.key_id, record.region):
        return _Outcome.OVERTAKEN
    if alias is not None:
        aliases.insert(tx, record.region, alias, record.key_id, record.creation_date)
    return _Outcome.MADE
