"""Records to write and read back."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from hsmkms.model.enums import KeyManager, KeySpec, KeyState, KeyUsage, MaterialState, Origin
from hsmkms.model.ids import key_arn, new_key_id
from hsmkms.model.records import KeyRecord, MaterialRecord
from hsmkms.store import keys
from hsmkms.store.engine import Store
from hsmkms.store.schema import material, material_presence, regional_key
from hsmkms.store.statuses import Lifecycle

ACCOUNT = "111122223333"
INSTALLATION = "0123456789abcdef0123456789abcdef"
TOKEN = "5f0c3a52-43a5-4b1c-9a1e-0d0e6d4f9b11"  # noqa: S105 - the id of a PKCS#11 token
REGION = "eu-central-1"
ELSEWHERE = "us-east-1"
NOW = datetime(2026, 3, 1, 12, 30, 15, 123457, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


def a_material(sequence: int = 1, **changes: object) -> MaterialRecord:
    """A material that no test has seen before."""
    fields: dict[str, Any] = {
        "material_id": uuid.uuid4().hex * 2,
        "sequence": sequence,
        "state": MaterialState.CURRENT,
        "created_at": NOW,
        "token_id": TOKEN,
        "cka_id": uuid.uuid4().bytes,
    }
    return MaterialRecord(**(fields | changes))


def a_key(region: str = REGION, **changes: object) -> KeyRecord:
    """A key that no test has seen before, with one material."""
    key_id = str(changes.pop("key_id", new_key_id(multi_region=False)))
    fields: dict[str, Any] = {
        "key_id": key_id,
        "region": region,
        "arn": key_arn(ACCOUNT, region, key_id),
        "spec": KeySpec.SYMMETRIC_DEFAULT,
        "usage": KeyUsage.ENCRYPT_DECRYPT,
        "origin": Origin.AWS_KMS,
        "manager": KeyManager.CUSTOMER,
        "multi_region": False,
        "state": KeyState.ENABLED,
        "description": "for tests; ünïcode",
        "policy": "{}",
        "creation_date": NOW,
        "version": 0,
        "materials": (a_material(),),
    }
    return KeyRecord(**(fields | changes))


def write(store: Store, record: KeyRecord, **tags: str) -> KeyRecord:
    """Make a key live, and return it as the store has it."""
    with store.atomic() as tx:
        keys.insert_intent(tx, record, tags, "label")
        assert keys.complete(tx, record.key_id, record.region)
    return read(store, record)


def read(store: Store, record: KeyRecord) -> KeyRecord:
    """The key as the store has it now."""
    with store.reading() as conn:
        stored = keys.fetch(conn, record.region, record.key_id)
    assert stored is not None
    return stored


def replicate(tx: Connection, record: KeyRecord, region: str) -> None:
    """Show a key with one material in another region as well, as replication writes it."""
    row = dict(tx.execute(regional_key.select().where(regional_key.c.key_id == record.key_id)).one()._mapping)
    tx.execute(regional_key.insert().values(row | {"region": region, "lifecycle": Lifecycle.LIVE}))
    number = tx.scalar(material.select().where(material.c.key_id == record.key_id))
    presence = {"key_id": record.key_id, "region": region, "material": number, "present": True}
    tx.execute(material_presence.insert().values(presence))


def pragma(conn: Connection, name: str) -> object:
    """The value of a PRAGMA on this connection."""
    return conn.exec_driver_sql(f"PRAGMA {name}").scalar()
