"""Adopt a key that is on a token and has no row: rebuild the row from the object's label and CKA_ID."""

from typing import Protocol

from hsmkms.errors import KMSInvalidStateException, ObjectLostError
from hsmkms.hsm.objects.backing_keys import SYMMETRIC, Kind
from hsmkms.model.enums import KeyManager, KeyState, MaterialState, Origin
from hsmkms.model.ids import is_multi_region, key_arn
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.rules.iam import policies
from hsmkms.rules.material import material_id
from hsmkms.service.runtime.core import Core
from hsmkms.store import keys, regions
from hsmkms.store.engine import Connection
from hsmkms.store.statuses import ObjectStatus


class Orphan(Protocol):
    """A key on a token, as its label names it; ``cka_id`` is in hex."""

    @property
    def token_id(self) -> str:
        """The token's id in the database."""

    @property
    def cka_id(self) -> str:
        """The object's CKA_ID in hex."""

    @property
    def key_id(self) -> str:
        """The KMS key that it belongs to."""

    @property
    def sequence(self) -> int:
        """Which of the key's materials it is."""

    @property
    def label(self) -> str:
        """The object's label."""


def check_genuine(core: Core, orphan: Orphan) -> Kind:
    """Return the object's spec and usage; refuse one that hsmkms cannot have created.

    Anyone who has the PIN can write a label. But CKA_LOCAL, that the token generated the key, and that it was never
    extractable cannot be forged. On a token that does not report CKA_LOCAL no object is genuine.
    """
    device, cka_id = core.tokens.of(orphan.token_id), bytes.fromhex(orphan.cka_id)
    if device.profile.attributes.local:
        raise KMSInvalidStateException(
            f"the object {orphan.cka_id} is not adopted: this token does not report which keys it generated itself "
            "(CKA_LOCAL), so the object could have been brought in. Restore a backup of the database that has its key"
        )
    try:
        kind = device.keys.identify(cka_id)
    except ObjectLostError as exc:
        raise KMSInvalidStateException(f"the object {orphan.cka_id} is only a part of a key: remove it") from exc
    deviations = (
        device.keys.attest(cka_id, kind or SYMMETRIC)[1] + device.keys.attest_public(cka_id, kind or SYMMETRIC)[1]
    )
    if kind is None or deviations:
        raise KMSInvalidStateException(
            f"the object {orphan.cka_id} is not as hsmkms creates keys ({'; '.join(deviations)}), so it is not adopted"
        )
    return kind


def adopt(tx: Connection, core: Core, orphan: Orphan, kind: Kind, region: str) -> bool:
    """Rebuild the row of a backing key from its label and CKA_ID: a new key, or one more material of a known key.

    The material with the highest sequence is the newest, so it becomes current. The labels of a multi-Region set's
    materials may name several regions, where the primary key once was: they are added to it where it is now. False if
    the material was added to a known key.
    """
    region = regions.primary_region(tx, orphan.key_id) or region
    cka_id = bytes.fromhex(orphan.cka_id)
    known = keys.fetch(tx, region, orphan.key_id)
    if known is not None and (known.kind != kind or kind != SYMMETRIC):
        raise KMSInvalidStateException(
            f"the object {orphan.cka_id} is of spec {kind[0]}, and the key {orphan.key_id} is known with another "
            "backing key: only symmetric encryption keys have several"
        )
    if known is None and keys.exists_anywhere(tx, orphan.key_id):
        raise KMSInvalidStateException(
            f"the key {orphan.key_id} of the object {orphan.cka_id} is known, but not as a key of {region}: "
            "name its region with --region, or mend its other findings first"
        )
    taken = {each.sequence for each in known.materials} if known else set()
    newest = max(taken, default=0)
    adopted = MaterialRecord(
        material_id=material_id(orphan.key_id, cka_id),
        # If taken: the key was rotated, its database restored, and rotated again. Both materials are needed.
        sequence=newest + 1 if orphan.sequence in taken else orphan.sequence,
        state=MaterialState.CURRENT if orphan.sequence > newest else MaterialState.NON_CURRENT,
        created_at=core.clock(),
        token_id=orphan.token_id,
        cka_id=cka_id,
    )
    if known is not None:
        if adopted.state is MaterialState.CURRENT:
            keys.retire_materials(tx, orphan.key_id)
        keys.insert_material(tx, orphan.key_id, adopted, orphan.label, ObjectStatus.PRESENT)
        return False
    keys.insert_intent(tx, _rebuilt(core, orphan.key_id, region, kind, adopted), {}, orphan.label)
    keys.complete(tx, orphan.key_id, region)
    return True


def _rebuilt(core: Core, key_id: str, region: str, kind: Kind, first: MaterialRecord) -> KeyRecord:
    spec, usage = kind
    account = core.installation.account
    return KeyRecord(
        key_id=key_id,
        region=region,
        arn=key_arn(account, region, key_id),
        spec=spec,
        usage=usage,
        origin=Origin.AWS_KMS,
        manager=KeyManager.CUSTOMER,
        multi_region=is_multi_region(key_id),
        primary_region=region if is_multi_region(key_id) else None,
        state=KeyState.DISABLED,
        description=f"adopted from the token at {core.clock():%Y-%m-%d %H:%M:%S} UTC",
        policy=policies.default_policy(account),
        creation_date=core.clock(),
        version=0,
        materials=(first,),
    )
