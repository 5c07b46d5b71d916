"""Material that several regions use: it goes with the last of them."""

from store_samples import ELSEWHERE, REGION, TOKEN, a_key, write

from hsmkms.store import deletion
from hsmkms.store.engine import Store
from hsmkms.store.schema import Lifecycle, material, material_presence, regional_key


def test_destroyed_with_the_last_region_only(store: Store) -> None:
    """The end of a key in one of its regions dooms nothing; the end in the last one dooms its objects."""
    record = write(store, a_key())
    with store.atomic() as tx:  # what replication will write
        row = dict(tx.execute(regional_key.select().where(regional_key.c.key_id == record.key_id)).one()._mapping)
        tx.execute(regional_key.insert().values(row | {"region": ELSEWHERE, "lifecycle": Lifecycle.LIVE}))
        number = tx.scalar(material.select().where(material.c.key_id == record.key_id))
        presence = {"key_id": record.key_id, "region": ELSEWHERE, "material": number, "present": True}
        tx.execute(material_presence.insert().values(presence))
    with store.atomic() as tx:
        deletion.bury(tx, record.key_id, REGION)
        assert deletion.doomed(tx, TOKEN) == []
        deletion.bury(tx, record.key_id, ELSEWHERE)
        assert [each.cka_id for each in deletion.doomed(tx, TOKEN)] == [record.materials[0].cka_id]
