"""What is cached when the database comes back without its last commits, as a standby that is promoted may."""

import time
from pathlib import Path

from postgresql_cluster import Cluster, name_of
from service_sites import Site, close_to_all, new_key, seal, unseal

from hsmkms.errors import DependencyTimeoutException, DisabledException
from hsmkms.kms import Kms
from hsmkms.model.keys import DisableKeyRequest, EnableKeyRequest

LONG_SECONDS = 60


def is_refused(kms: Kms, key_id: str) -> bool:
    """True as soon as the key is disabled, also for this process."""
    try:
        seal(kms, key_id)
    except DisabledException:
        return True
    except DependencyTimeoutException:
        pass  # it is connecting
    return False


def test_a_server_that_lacks_the_last_commits(prepared_on_server: Site, cluster: Cluster, tmp_path: Path) -> None:
    """Nothing that was cached before is used any more, and the keys of the changes that are there work."""
    site = prepared_on_server.copy(tmp_path / "site")
    database = name_of(str(site.settings.store.url))
    with site.open() as kms:
        key_id = new_key(kms).key_id
        kms.disable_key(DisableKeyRequest(key_id=key_id))
        close_to_all(cluster, database)
        standby = cluster.create(database)
        cluster.admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true".encode())
        until = time.monotonic() + LONG_SECONDS
        while not is_refused(kms, key_id):
            assert time.monotonic() < until
        kms.enable_key(EnableKeyRequest(key_id=key_id))
        for _ in range(2):
            new_key(kms)
        seal(kms, key_id)

        close_to_all(cluster, database)
        cluster.admin.execute(f"ALTER DATABASE {database} RENAME TO {database}_lost".encode())
        cluster.admin.execute(f"ALTER DATABASE {standby} RENAME TO {database}".encode())
        until = time.monotonic() + LONG_SECONDS
        while not is_refused(kms, key_id):
            assert time.monotonic() < until, "a key that is disabled is still used"
            time.sleep(0.01)
        kms.enable_key(EnableKeyRequest(key_id=key_id))
        assert unseal(kms, seal(kms, key_id)) == b"secret"
    cluster.admin.execute(f"DROP DATABASE {database}_lost".encode())
    site.drop()
