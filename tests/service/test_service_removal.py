"""Adoption and removal take only what is safe to take: nothing planted, nothing in use, nothing half removed."""

import shutil
from pathlib import Path

import pytest
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType
from service_sites import Site, new_key, seal, unseal

from hsmkms.errors import KMSInvalidStateException, StoreError, TokenUnavailableError, ValidationException
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.objects import generate
from hsmkms.kms import Kms
from hsmkms.model.ids import new_key_id
from hsmkms.model.keys import DescribeKeyRequest, EnableKeyRequest
from hsmkms.model.permit import Permit
from hsmkms.rules.material import object_label
from hsmkms.service.operator.reconcile import Finding, Kind, Mended
from hsmkms.store import leases
from hsmkms.wiring import core as wiring

KNOWN_BYTES = b"A" * 32


def label_for(kms: Kms, key_id: str, sequence: int) -> str:
    """The label of a backing key of this installation."""
    return object_label(kms._core.installation.short_id, kms._core.installation.default_region, key_id, sequence)


def orphan(kms: Kms, key_id: str, cka_id: bytes) -> Finding:
    """A real backing key on the token that the database does not know, as a finding."""
    with kms._core.device.connection.pool.session() as session:
        generate(session, AES_256_BACKING_KEY, cka_id, label_for(kms, key_id, 1))
    (finding,) = kms.operator.find_differences()
    return finding


def patient(site: Site) -> Site:
    """The same installation without a grace period."""
    return site.varied("patient.toml", reconcile=wiring.config.ReconcileSettings(grace_hours=0))


def test_planted_key_is_not_adopted(site: Site) -> None:
    """A key of known bytes is never taken for the newest material of a key, whatever its label says."""
    with site.open() as kms:
        made = new_key(kms)
        planted = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: True,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
            Attribute.ID: b"p" * 16,
            Attribute.LABEL: label_for(kms, made.key_id, 2),
            Attribute.VALUE: KNOWN_BYTES,
        }
        with kms._core.device.connection.pool.session() as session:
            session.create_object(planted)
        (finding,) = kms.operator.find_differences()
        assert finding.kind is Kind.ORPHAN
        with pytest.raises(KMSInvalidStateException, match="not as hsmkms creates keys"):
            kms.operator.mend(finding)
        shown = kms.describe_key(DescribeKeyRequest(key_id=made.key_id)).key_metadata
        assert shown.current_key_material_id == made.current_key_material_id
        assert leases.total(kms._core.store, made.current_key_material_id or "") == 0


def test_removal_cannot_be_overtaken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a removal has begun no process can adopt the object, so no key that works loses its material."""
    with patient(site).open() as kms:
        finding = orphan(kms, new_key_id(multi_region=False), b"o" * 16)
        destroy = kms._core.device.keys.destroy
        overtaken: list[Mended] = []

        def adopt_first(permit: Permit, cka_id: bytes) -> bool:
            overtaken.append(kms.operator.mend(finding))
            return destroy(permit, cka_id)

        monkeypatch.setattr(kms._core.device.keys, "destroy", adopt_first)
        assert kms.operator.mend(finding, remove=True) is Mended.REMOVED
        assert overtaken == [Mended.GONE]
        assert kms.operator.find_differences() == []


def test_adopted_key_is_not_removed(site: Site) -> None:
    """A removal that was decided before another process adopted the object leaves the key alone."""
    key_id = new_key_id(multi_region=False)
    with patient(site).open() as kms:
        finding = orphan(kms, key_id, b"o" * 16)
        assert kms.operator.mend(finding) is Mended.ADOPTED
        assert kms.operator.mend(finding, remove=True) is Mended.GONE
        kms.enable_key(EnableKeyRequest(key_id=key_id))
        assert unseal(kms, seal(kms, key_id), key_id=key_id) == b"secret"


def test_interrupted_removal_is_finished(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that the token interrupted stays visible, cannot be turned into an adoption, and can be repeated."""
    with patient(site).open() as kms:
        finding = orphan(kms, new_key_id(multi_region=False), b"o" * 16)

        def away(permit: Permit, cka_id: bytes) -> bool:
            raise TokenUnavailableError(f"{permit.operation} {cka_id.hex()}")

        with monkeypatch.context() as patch:
            patch.setattr(kms._core.device.keys, "destroy", away)
            with pytest.raises(TokenUnavailableError):
                kms.operator.mend(finding, remove=True)
        (again,) = kms.operator.find_differences()
        assert (again.cka_id, again.kind) == (finding.cka_id, Kind.DOOMED)
        with pytest.raises(ValidationException, match="remove it, or leave it to `hsmkms maintain`"):
            kms.operator.mend(again)
        assert kms.operator.mend(again, remove=True) is Mended.REMOVED
        assert kms.operator.find_differences() == []


@pytest.mark.sqlite_alone("it moves the file away")
def test_lost_database_is_not_replaced(site: Site) -> None:
    """Where encryptions were counted, init does not make a new installation in the place of a lost one."""
    with site.open() as kms:
        seal(kms, new_key(kms).key_id)
    (site.settings.data_dir / "meta.db").rename(site.settings.data_dir / "elsewhere")
    for leftover in ("meta.db-wal", "meta.db-shm"):
        Path(site.settings.data_dir / leftover).unlink(missing_ok=True)
    with pytest.raises(StoreError, match=r"no meta\.db: restore that one"):
        wiring.initialise(site.settings)
    shutil.move(site.settings.data_dir / "elsewhere", site.settings.data_dir / "meta.db")
    with site.open() as kms:
        assert kms.operator.find_differences() == []
