"""Material that several regions use: it goes with the last of them."""

from store_samples import ELSEWHERE, REGION, TOKEN, a_key, replicate, write

from hsmkms.store import deletion
from hsmkms.store.engine import Store


def test_destroyed_with_the_last_region_only(store: Store) -> None:
    """The end of a key in one of its regions dooms nothing; the end in the last one dooms its objects."""
    record = write(store, a_key())
    with store.atomic() as tx:
        replicate(tx, record, ELSEWHERE)
        deletion.bury(tx, record.key_id, REGION)
        assert deletion.doomed(tx, TOKEN) == []
        deletion.bury(tx, record.key_id, ELSEWHERE)
        assert [each.cka_id for each in deletion.doomed(tx, TOKEN)] == [record.materials[0].cka_id]
