"""An installation whose database is behind PgBouncer in transaction mode."""

import pytest
from msgspec.structs import replace
from postgresql_pooler import PooledCluster
from service_sites import NewFolder, Site, new_alias, new_key, seal, unseal

from hsmkms.errors import DisabledException
from hsmkms.model.keys import DisableKeyRequest, EnableKeyRequest
from hsmkms.model.rotation import RotateKeyOnDemandRequest


def test_a_life_behind_a_pooler(prepared_on_server: Site, pooled_cluster: PooledCluster, new_folder: NewFolder) -> None:
    """Keys are made, used, rotated, disabled by one process and refused by another; rows and audit log are proven."""
    site = replace(prepared_on_server, cluster=pooled_cluster).copy(new_folder())
    assert site.settings.store.listen_url is not None
    assert "6432" in str(site.settings.store.url)
    with site.open() as kms, site.open() as other:
        key_id = new_key(kms).key_id
        new_alias(kms, "alias/pooled", key_id)
        sealed = [seal(kms, "alias/pooled")]
        kms.rotate_key_on_demand(RotateKeyOnDemandRequest(key_id=key_id))
        sealed.append(seal(kms, key_id))
        for _ in range(3):
            other.disable_key(DisableKeyRequest(key_id=key_id))
            with pytest.raises(DisabledException):
                seal(other, key_id)
            other.enable_key(EnableKeyRequest(key_id=key_id))
            assert [unseal(other, each) for each in sealed] == [b"secret"] * 2
        kms.operator.maintain()
        assert kms.operator.audit.verify_rows() == []
        kms.operator.audit.log.flush()
        other.operator.audit.log.flush()
        assert not kms.operator.audit.verify().faults
    site.drop()
