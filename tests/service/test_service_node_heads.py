"""What a node publishes of its audit log in the database."""

import logging
import time
from pathlib import Path

import pytest
from postgresql_cluster import Cluster, name_of
from service_sites import Site, close_to_all, new_key

from hsmkms.kms import Kms
from hsmkms.model.keys import ListKeysRequest
from hsmkms.store import audit_heads

LONG_SECONDS = 60.0


def published(kms: Kms) -> list[tuple[str, int]]:
    """The lanes that the database knows, and how many records each has."""
    with kms._core.store.reading() as conn:
        return [(each.published.lane, each.published.head.sequence) for each in audit_heads.fetch(conn)]


def wait_for_return(kms: Kms) -> None:
    """Wait until the node knows that its database answers again."""
    until = time.monotonic() + LONG_SECONDS
    while kms.operator.watch.outage() is not None:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_database_that_is_away(
    prepared_on_server: Site, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, and what was written meanwhile is published as soon as the database is back."""
    site = prepared_on_server.copy(tmp_path / "site")
    database = name_of(str(site.settings.store.url))
    with site.open() as kms:
        new_key(kms)
        kms.operator.audit.publish_end()
        ((lane, before),) = published(kms)
        kms.list_keys(ListKeysRequest())
        close_to_all(cluster, database)
        with caplog.at_level(logging.WARNING, "hsmkms.service"):
            for _ in range(2):
                kms.operator.audit.publish_end()
        assert len([each for each in caplog.records if "cannot be published" in each.message]) == 1
        cluster.admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true".encode())
        wait_for_return(kms)
        kms.operator.audit.publish_end()
        assert published(kms) == [(lane, before + 1)]
    site.drop()
