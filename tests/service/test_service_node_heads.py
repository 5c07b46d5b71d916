"""What a node publishes of its audit log in the database."""

import logging
from pathlib import Path

import pytest
from postgresql_cluster import Cluster, name_of
from service_sites import START, Site, close_to_all, new_key
from waiting import until

from hsmkms.kms import Kms
from hsmkms.model.audit import Head, PublishedHead
from hsmkms.model.keys import ListKeysRequest
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.service.audit import reading
from hsmkms.service.audit.filters import Wanted
from hsmkms.store import audit_heads, nodes, outbox
from hsmkms.store.audit_heads import StoredHead
from hsmkms.store.nodes import Node


def published(kms: Kms) -> list[tuple[str, int]]:
    """The lanes that the database knows, and how many records each has."""
    with kms._core.store.reading() as conn:
        return [(each.published.lane, each.published.head.sequence) for each in audit_heads.fetch(conn)]


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
        until(lambda: kms.operator.watch.outage() is None)
        kms.operator.audit.publish_end()
        assert published(kms) == [(lane, before + 1)]
    site.drop()


def test_a_node_that_was_removed(prepared_on_server: Site, cluster: Cluster, tmp_path: Path) -> None:
    """Its records in the outbox go to another node's log, once, also if that is interrupted; those of others stay."""
    site = prepared_on_server.copy(tmp_path / "site")
    record = b'{"eventName":"DisableKey","eventID":"%s"}'
    with cluster.connect(name_of(str(site.settings.store.url))) as admin, site.open() as kms:
        new_key(kms)
        own, other = kms._core.audit.node_id, "f" * 32
        put = "INSERT INTO audit_outbox (lane, event_id, record) VALUES (%s, %s, %s)"
        with kms._core.store.atomic() as tx:
            nodes.register(tx, Node(other, "host", "folder", START))
        events = {f"{other}/0001": "of-another", f"{'e' * 32}/0001": "of-a-removed", f"{own}/0007": "taken-over"}
        for lane, event_id in events.items():
            admin.execute(put, (lane, event_id, record % event_id.encode()))
        for _ in range(2):
            kms.operator.audit.look_after()
            found = list(reading.export([kms.operator.audit.folder], Wanted(event_name="DisableKey")))
            assert sorted(found) == sorted(record % each.encode() for each in ("of-a-removed", "taken-over"))
        assert admin.execute("SELECT event_id FROM audit_outbox").fetchall() == [("of-another",)]
        assert kms.operator.audit.verify().faults == []
    site.drop()


def test_keys_of_other_nodes_seals(prepared_on_server: Site, tmp_path: Path) -> None:
    """No version of the key that seals logs is destroyed which only another node's log may need."""
    site = prepared_on_server.copy(tmp_path / "site")
    with site.open() as kms:
        new_key(kms)
        published = PublishedHead(
            node="f" * 32, lane="0001", acceptance=0, head=Head(sequence=1, hash="", segment=1), at=START
        )
        kms._core.store.log.run(lambda tx: audit_heads.publish(tx, [StoredHead(published, b"")]))
        kms.operator.rotate_installation_key(KeyPurpose.AUDIT_SEAL)
        done = kms.operator.rotate_installation_key(KeyPurpose.AUDIT_SEAL, destroy_older=True)
        assert {each.kept for each in done.older} == {"seals of other nodes' audit logs may have been made with it"}
    site.drop()


def test_back_in_files(prepared: Site, tmp_path: Path) -> None:
    """After a move of the store from a server, the one node moves what the others left in the outbox."""
    site = prepared.copy(tmp_path / "site")
    record = b'{"eventName":"DisableKey","eventID":"left-behind"}'
    with site.open() as kms:
        with kms._core.store.atomic() as tx:
            outbox.put(tx, outbox.address("f" * 32, "0001"), "left-behind", record)
        kms.operator.audit.look_after()
        assert list(reading.export([kms.operator.audit.folder], Wanted(event_name="DisableKey"))) == [record]
        assert kms.operator.audit.verify().faults == []
