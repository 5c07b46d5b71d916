"""The installation's own keys are rotated while everything works, after any interruption, and nothing is lost."""

from datetime import datetime
from typing import Any

import pytest
from lifecycle import new_empty_key, request_to_import, sweep
from msgspec import Struct
from service_sites import REGION, Site, StoppedClock, mac_key, new_key, run, seal, unseal
from test_service_backup import back_up, lose, restore
from test_service_crash import cka_id_of

from hsmkms.errors import ConflictException, InvalidGrantTokenException, KMSInternalException, StoreError
from hsmkms.hsm.ciphers import Ciphers
from hsmkms.kms import Kms
from hsmkms.model.asymmetric import GenerateMacRequest
from hsmkms.model.enums import KeySpec, KeyUsage, Operation
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.model.importing import ImportKeyMaterialRequest
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.service import grant_tokens
from hsmkms.service.keys.installation_keys import macs, versions
from hsmkms.service.operator import key_rotation
from hsmkms.service.operator.credentials import NewAccessKey
from hsmkms.service.operator.key_rotation import Outcome

FOR_BACKUPS = "backups from before the rotation need it: --destroy-older destroys it"
STEPS = [
    ("mac", "rotate-own 1", False),
    ("mac", "rotate-own 2", False),
    ("mac", "rotate-own 3: bound", False),
    ("mac", "rotate-own 3: moved", True),
    ("audit-seal", "rotate-own 1", False),
    ("secrets", "rotate-own 1", False),
    ("secrets", "rotate-own 3: a secret", False),
    ("secrets", "rotate-own 3: moved", True),
]
"""Where a rotation is killed, and whether it was complete by then."""


class Scene(Struct):
    """What was made before a rotation: a ciphertext, access keys, grant token, request with an import token, report."""

    key_id: str
    sealed: bytes
    access_keys: list[NewAccessKey]
    grant_token: str
    to_import: ImportKeyMaterialRequest | None
    report: bytes

    @classmethod
    def of(cls, kms: Kms, *, importing: bool) -> "Scene":
        """Make it all; imports take their time, so that they are only looked at where they matter."""
        key_id = new_key(kms).key_id
        kms.operator.credentials.create_user("alice")
        scene = cls(
            key_id,
            seal(kms, key_id),
            [kms.operator.credentials.create_access_key("alice") for _ in range(2)],
            "",
            request_to_import(kms, new_empty_key(kms)) if importing else None,
            kms.operator.reports.sign(b"report", kms.operator.reports.key()),
        )
        scene.grant_token = scene.new_grant(kms)
        return scene

    def new_grant(self, kms: Kms) -> str:
        """Let alice decrypt; the grant's token."""
        alice = kms.operator.identities.user("alice").arn
        request = CreateGrantRequest(key_id=self.key_id, grantee_principal=alice, operations=[Operation.DECRYPT])
        return kms.create_grant(request).grant_token

    def assert_whole(self, kms: Kms) -> None:
        """Assert that everything made before works unchanged, that new keys work, and that every check passes."""
        # First of all something new: nothing that was there before is read for it.
        assert unseal(kms, seal(kms, new_key(kms).key_id)) == b"secret"
        kms._core.grant_tokens.clear()
        alice = kms.caller(REGION, "alice")
        assert unseal(kms, self.sealed, alice, grant_tokens=[self.grant_token]) == b"secret"
        for access_key in self.access_keys:
            credential = kms.operator.credentials.find(access_key.access_key_id)
            assert credential is not None
            assert credential.secret == access_key.secret_access_key
        if self.to_import is not None:
            kms.import_key_material(self.to_import)
            self.to_import = request_to_import(kms, self.to_import.key_id)
        assert kms.operator.reports.verify(b"report", self.report, (), lambda _read, _size: None).key is not None
        kms.operator.watch.check_token()
        assert kms.operator.find_differences() == []
        assert kms.operator.audit.verify_rows() == []
        kms.operator.audit.look_after()
        assert kms.operator.audit.verify().faults == []


def rotate_beside(site: Site, when: datetime, purpose: str, *words: str, kill: str = "") -> dict[str, Any]:
    """Rotate the key of a purpose in another process; killed at a step, it prints nothing."""
    arguments = [when.isoformat(), f"kill {kill}" if kill else "", "rotate-own", purpose, *words]
    output = run("act", site.folder / "hsmkms.toml", *arguments, status=-9 if kill else 0)
    return output[0] if output else {}


def edit(site: Site, statement: str) -> None:
    """Edit the database with its engine's own means, as a tool would."""
    site.edit(statement)


@pytest.mark.parametrize("purpose", KeyPurpose)
def test_beside_a_running_process(site: Site, clock: StoppedClock, purpose: str) -> None:
    """A process that has long been open keeps its caches, and uses the new version at its next call."""
    with site.open(clock) as kms:
        scene = Scene.of(kms, importing=purpose == "mac")
        kms.operator.backup(site.folder / "first")
        kms.operator.audit.look_after()
        outcome = rotate_beside(site, clock.now, purpose)
        kept = "seals of the audit log were made with it" if purpose == "audit-seal" else FOR_BACKUPS
        if purpose == "mac":
            kept = "import tokens and grant tokens from before the rotation are good until 2026-01-03 03:04 UTC"
        assert outcome["version"] == 2
        assert outcome["outcome"] == Outcome.ROTATED
        scene.assert_whole(kms)
        kms.operator.backup(site.folder / "second")
        assert outcome["kept"] == [kept]


@pytest.mark.parametrize(("purpose", "step", "complete"), STEPS)
def test_killed(site: Site, clock: StoppedClock, purpose: str, step: str, *, complete: bool) -> None:
    """Killed at any step all works on; the next rotation finishes it, and makes no further version if it was begun."""
    with site.open(clock) as kms:
        scene = Scene.of(kms, importing=purpose == "mac")
        kms.operator.audit.look_after()
    rotate_beside(site, clock.now, purpose, kill=step)
    with site.open(clock) as kms:
        scene.assert_whole(kms)
        assert key_rotation.interrupted(kms._core) == ([] if complete else [purpose])
        rotated = kms.operator.rotate_installation_key(purpose)
        assert (rotated.outcome, rotated.version) == ((Outcome.ROTATED, 3) if complete else (Outcome.FINISHED, 2))
        assert key_rotation.interrupted(kms._core) == []
        scene.assert_whole(kms)


def test_older_versions_are_destroyed(site: Site, clock: StoppedClock) -> None:
    """On the operator's order, where nothing needs them; after a kill it is done again. Open processes work on."""
    with site.open(clock) as kms:
        scene = Scene.of(kms, importing=False)
        kms.operator.audit.look_after()
        for purpose in ("mac", "secrets", "audit-seal"):
            rotate_beside(site, clock.now, purpose)
        (kept,) = rotate_beside(site, clock.now, "mac", "destroy")["kept"]
        assert kept.endswith("are good until 2026-01-03 03:04 UTC")
        scene.assert_whole(kms)
        clock.advance(hours=25)
        sweep(kms)
        assert rotate_beside(site, clock.now, "secrets", "destroy", kill="rotate-own 4") == {}
        for purpose in ("mac", "secrets"):
            outcome = rotate_beside(site, clock.now, purpose, "destroy")
            assert outcome == {"version": 2, "outcome": Outcome.KEPT, "kept": [None]}
            assert [version.version for version in versions(kms._core, purpose)] == [2]
        outcome = rotate_beside(site, clock.now, "audit-seal", "destroy")
        assert outcome["kept"] == ["seals of the audit log were made with it"]
        with pytest.raises(InvalidGrantTokenException):
            scene.assert_whole(kms)
        scene.grant_token = scene.new_grant(kms)
        scene.assert_whole(kms)


def test_backup_from_before(site: Site) -> None:
    """It is noticed as older than what the token remembers; accepted, it works with the older versions."""
    with site.open() as kms:
        scene = Scene.of(kms, importing=False)
        kms.operator.audit.look_after()
    file = back_up(site)
    with site.open() as kms:
        for purpose in KeyPurpose:
            kms.operator.rotate_installation_key(purpose)
    lose(site)
    with pytest.raises(StoreError, match="older than what its token remembers"):
        restore(site, file)
    assert restore(site, file, accept_rollback=True).missing == []
    with site.open() as kms:
        scene.assert_whole(kms)
        assert [kms.operator.rotate_installation_key(each).version for each in KeyPurpose] == [2] * 5
        scene.assert_whole(kms)


def test_edited_rows_are_not_sealed_again(site: Site) -> None:
    """What was edited by hand does not become right by a rotation: it is refused, and can be done after a mending."""
    with site.open() as kms:
        key_id = new_key(kms).key_id
        edit(site, "UPDATE regional_key SET description = 'mine'")
        with pytest.raises(KMSInternalException):
            kms.operator.rotate_installation_key("mac")
        assert [fault.subject for fault in kms.operator.audit.verify_rows()] == [f"key/{key_id}"]
        edit(site, "UPDATE regional_key SET description = ''")
        # A server's triggers note edits too, so that there the first step was refused already.
        begun = Outcome.FINISHED if site.cluster is None else Outcome.ROTATED
        assert kms.operator.rotate_installation_key("mac").outcome is begun
        assert kms.operator.audit.verify_rows() == []


def test_secret_that_is_made_meanwhile(site: Site, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was encrypted by the version before is not stored after the rotation has looked for such ones."""
    with site.open(clock) as kms:
        desk, encrypt = kms.operator.credentials, Ciphers.encrypt
        desk.create_access_key(None)

        def overtaken(*arguments: Any) -> Any:  # noqa: ANN401 - whatever the device is asked
            monkeypatch.undo()
            rotate_beside(site, clock.now, "secrets")
            return encrypt(*arguments)

        monkeypatch.setattr(Ciphers, "encrypt", overtaken)
        with pytest.raises(ConflictException, match="was rotated just now: try again"):
            desk.create_access_key(None)
        made = desk.create_access_key(None)
        assert desk.find(made.access_key_id) is not None


def test_key_of_a_user_is_no_installation_key(site: Site) -> None:
    """A row that names a KMS key as the newest MAC key lets its user prove nothing: the real one stays in use."""
    with site.open() as kms:
        scene = Scene.of(kms, importing=False)
        made = kms.create_key(CreateKeyRequest(key_spec=KeySpec.HMAC_256, key_usage=KeyUsage.GENERATE_VERIFY_MAC))
        cka_id = cka_id_of(kms, made.key_metadata.key_id)
        edit(
            site,
            "INSERT INTO installation_key (purpose, version, token_id, cka_id, created_at) "
            f"SELECT purpose, 2, token_id, {site.literal(cka_id)}, created_at "
            "FROM installation_key WHERE purpose = 'mac'",
        )
        kms._core.grant_tokens.clear()
        alice = kms.caller(REGION, "alice")
        assert unseal(kms, scene.sealed, alice, grant_tokens=[scene.grant_token]) == b"secret"
        assert [fault.subject for fault in kms.operator.audit.verify_rows()] == ["installation"]
        label = b"anything"
        (mac,) = macs(kms._core, grant_tokens._permit, label)
        request = GenerateMacRequest(key_id=made.key_metadata.key_id, message=label, mac_algorithm="HMAC_SHA_256")
        assert kms.generate_mac(request).mac != mac
    with site.open() as kms:
        assert mac_key(kms) != cka_id
