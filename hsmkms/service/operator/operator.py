"""The operator's façade, besides the API: inspect tokens, attest, maintain, back up, migrate, reconcile."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.errors import DependencyTimeoutException
from hsmkms.hsm.ports import Device, MechanismInfo
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.hsm.session.cryptoki import TokenLimits
from hsmkms.hsm.session.group_login import MemberState
from hsmkms.model.caller import Caller, local_root
from hsmkms.model.enums import Operation, WrappingAlgorithm
from hsmkms.model.ids import root_arn
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.records import KeyRecord
from hsmkms.model.token_check import CheckReport
from hsmkms.rules import import_token as tokens
from hsmkms.service.audit.administration import AuditAdministration
from hsmkms.service.backup import create
from hsmkms.service.backup.age_keys import Recipient
from hsmkms.service.backup.create import BackupMade
from hsmkms.service.backup.signature import SigningKey
from hsmkms.service.operations import wrapping_keys
from hsmkms.service.operator import (
    bulk_rotation,
    clones,
    forgetting,
    group_members,
    key_renewal,
    key_rotation,
    migration,
    older_material,
    reconcile,
    rotation_report,
    simulation,
    sweeper,
    unused_keys,
)
from hsmkms.service.operator.attestation import Attestation, attest_material
from hsmkms.service.operator.bulk_rotation import OldKey, Run
from hsmkms.service.operator.clones import Clone
from hsmkms.service.operator.credentials import Credentials
from hsmkms.service.operator.forgetting import Forgotten
from hsmkms.service.operator.identities import Identities
from hsmkms.service.operator.key_renewal import Loss
from hsmkms.service.operator.key_rotation import RotatedKey
from hsmkms.service.operator.migration import Left, Moved, TokenStanding, Waiting
from hsmkms.service.operator.monitoring import Watch
from hsmkms.service.operator.nodes import Nodes
from hsmkms.service.operator.older_material import OlderMaterial
from hsmkms.service.operator.policy_notes import PolicyNotes
from hsmkms.service.operator.reconcile import Finding, Mended
from hsmkms.service.operator.recorded import recorded
from hsmkms.service.operator.reports import Reports
from hsmkms.service.operator.rotation_report import KeyPosture
from hsmkms.service.operator.simulation import Simulation
from hsmkms.service.operator.sweeper import Report
from hsmkms.service.operator.unused_keys import KnownUse, UnusedKeys
from hsmkms.service.pipeline import Call
from hsmkms.service.runtime import clock
from hsmkms.service.runtime.core import Core
from hsmkms.store.installation import TokenRow


class TokenInfo(Struct, frozen=True, kw_only=True):
    """A token's profile, limits and mechanisms, and the members of its HA group; none without a group."""

    profile: TokenProfile
    limits: TokenLimits | None
    mechanisms: list[MechanismInfo]
    members: list[MemberState]


class Operator:
    """The operator's procedures on an open installation. Get it as ``kms.operator``."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.credentials = Credentials(core)
        """Users and their access keys."""
        self.audit = AuditAdministration(core)
        """The audit log."""
        self.identities = Identities(core)
        """Policies, groups and tags of users."""
        self.notes = PolicyNotes(core)
        """Notes about parts of policies that never match."""
        self.watch = Watch(core)
        """Checks and figures for monitoring."""
        self.nodes = Nodes(core)
        """The nodes of an installation on a database server."""
        self.reports = Reports(core)
        """Reports for auditors."""

    def bridge_outages(self) -> None:
        """Reserve what requests need while the database is away, and write what it missed. Call it once a second."""
        core = self._core
        with suppress(DependencyTimeoutException):  # it is away: a later call does it
            core.leases.reserve_ahead(core.cache.signal.bridged_seconds)
            core.uses.write_again()
            self.credentials.write_uses()

    def token_info(self, device: Device | None = None) -> TokenInfo:
        """Return profile, limits and mechanisms of a token; by default of the home."""
        device = device or self._core.device
        mechanisms = (
            device.connection.mechanisms()
        )  # first, since another member of an HA group may take over meanwhile
        profile = device.profile
        quirks = dict.fromkeys((*profile.quirks, *profile.attributes.quirks, *device.imports.quirks()))
        return TokenInfo(
            profile=replace(profile, quirks=tuple(quirks)),
            limits=device.connection.limits(),
            mechanisms=mechanisms,
            members=device.connection.member_states(),
        )

    def token_limits(self) -> TokenLimits | None:
        """Return the limits of the home token, without trying anything on it; None if it cannot be asked."""
        return self._core.device.connection.limits()

    @recorded("CheckToken")
    def token_check(self, device: Device | None = None) -> CheckReport:
        """Try everything that hsmkms needs on a token; by default on the home."""
        checked = device or self._core.device
        report = checked.connection.checks()
        checked.imports.record_checks(report)
        return report

    @recorded("Attest", key_id="keyId", region="region")
    def attest(self, key_id: str, region: str | None = None) -> list[Attestation]:
        """Read every backing key of a KMS key back from the token, oldest first.

        ``key_id``: a key id, key ARN, alias or alias ARN. Raises NotFoundException.
        """
        record = self._key(key_id, region)
        return [attest_material(self._core, record, each) for each in record.materials]

    def import_algorithms(self) -> list[WrappingAlgorithm]:
        """Return the algorithms with which the token itself unwraps key material, the strongest first."""
        device = self._core.device
        return [each for each in device.imports.wrapping_algorithms() if device.imports.on_device(each)]

    def import_refusal(self) -> str:
        """Return why the token imports nothing; empty if it is not refused."""
        return self._core.device.imports.refusal()

    @recorded("DiscardWrappingKey")
    def discard_wrapping_key(self, import_token: bytes) -> None:
        """Destroy the wrapping key of an import token that will not be used again, before its 24 hours are over.

        InvalidImportTokenException for an invalid import token.
        """
        claims = tokens.read(tokens.split(import_token)[0])
        row = wrapping_keys.find(self._core, claims.wrapping_key)
        if row is not None:
            root = local_root(self._core.installation.account, claims.region)
            call = Call(self._core, Operation.IMPORT_KEY_MATERIAL, root)
            wrapping_keys.destroy(self._core, row, call.new_objects(row.cka_id))

    def simulate(
        self,
        user: str | None,
        action: str,
        *,
        key_id: str | None = None,
        encryption_context: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
        region: str | None = None,
        source_address: str | None = None,
    ) -> Simulation:
        """Decide about an action of a user (None: the root), and name the deciding policy; nothing is done.

        ``members``: further members of the request, by the API's names. Raises ValidationException, NotFoundException.
        """
        installation = self._core.installation
        caller = Caller(
            principal=root_arn(installation.account) if user is None else self.identities.user(user).arn,
            region=region or installation.default_region,
            source_address=source_address,
        )
        return simulation.simulate(self._core, caller, action, key_id, encryption_context, members or {})

    def maintain(self, *, dry_run: bool = False) -> Report:
        """Run everything that is due: rotation, expiry, wrapping keys, deletion. ``dry_run``: only list it."""
        return sweeper.maintain(self._core, dry_run=dry_run)

    def rotation_report(self, region: str | None = None) -> list[KeyPosture]:
        """Report the rotation of every key, or of every key of a region, the worst first."""
        return rotation_report.rotation_report(self._core, region)

    def old_keys(self, before: datetime, region: str | None = None) -> list[OldKey]:
        """Return the keys whose current key material is older; see ``service/operator/bulk_rotation.py``."""
        return bulk_rotation.find(self._core, before, region)

    def rotate_old_keys(
        self, keys: Sequence[OldKey], advance: Callable[[], None], is_stopped: Callable[[], bool] = lambda: False
    ) -> Run:
        """Rotate these keys on demand; call ``advance`` after each, and stop when ``is_stopped``."""
        return bulk_rotation.rotate_all(self._core, keys, advance, is_stopped)

    def unused_keys(self, since: datetime, region: str | None = None, archives: Sequence[Path] = ()) -> UnusedKeys:
        """Return the keys of a region, by default of the configured one, that were not used since then."""
        return unused_keys.find(self._core, region or self._core.installation.default_region, since, archives)

    def known_use(self, key_id: str, region: str | None = None) -> KnownUse:
        """Return what is known of a key's last use. Raises NotFoundException."""
        return unused_keys.known_use(self._core, self._key(key_id, region))

    def backup(
        self,
        file: Path,
        recipients: Sequence[Recipient] = (),
        configuration: bytes | None = None,
        signing_key: SigningKey | None = None,
    ) -> BackupMade:
        """Write a backup, encrypted to recipients, or by the token without any; see ``service/backup/create.py``."""
        return create.backup(self._core, file, recipients, configuration, signing_key)

    @recorded("RotateInstallationKey", purpose="purpose", destroy_older="destroyOlder")
    def rotate_installation_key(self, purpose: KeyPurpose, *, destroy_older: bool = False) -> RotatedKey:
        """Rotate one of the installation's own keys, or destroy its older versions.

        See ``service/operator/key_rotation.py``.
        """
        return key_rotation.rotate(self._core, purpose, destroy_older=destroy_older)

    def interrupted_rotations(self) -> list[str]:
        """Return the purposes of the installation's own keys whose rotation was interrupted."""
        return key_rotation.interrupted(self._core)

    def lost_purposes(self) -> list[str]:
        """Return the purposes of the installation's own keys whose newest version is unavailable now."""
        return key_rotation.lost(self._core)

    def lost_installation_keys(self) -> Loss:
        """Return what would be lost if the unavailable keys of the installation's own were replaced by new ones.

        See ``service/operator/key_renewal.py``.
        """
        return key_renewal.find(self._core)

    def renew_installation_keys(self, loss: Loss) -> None:
        """Replace the installation's own keys at home, after a token with some of them was lost permanently."""
        details = {
            "purposes": loss.purposes,
            "tokens": loss.tokens,
            "accessKeys": loss.access_keys,
            "contradiction": loss.contradiction or "",
        }
        key_renewal.renew(self._core, loss)
        with self._core.audit.acting("RenewInstallationKeys", self._core.installation.default_region, details):
            pass

    def tokens(self) -> list[TokenStanding]:
        """Return the standing of each of the installation's tokens, oldest first."""
        return migration.standings(self._core)

    def settle_on(self, device: Device) -> TokenRow:
        """Make another token the installation's home; ``device`` is closed with the installation, or on failure.

        See ``service/operator/migration.py``.
        """
        details = {"label": device.profile.label, "serial": device.profile.serial}
        try:
            with self._core.audit.acting("MigrateToken", self._core.installation.default_region, details):
                return migration.settle(self._core, device)
        except BaseException:
            if device not in self._core.tokens.opened():
                device.close()
            raise

    def interrupted_migrations(self) -> list[TokenRow]:
        """Return the former homes without a mark of the migration: they were away, or it was interrupted."""
        return migration.interrupted(self._core)

    def check_target(self, device: Device) -> None:
        """Raise BindingError if a token can never become the home: it is a former home, or a clone."""
        migration.check_target(self._core, device)

    def missing_on_member(self, device: Device) -> list[str]:
        """Return the ids of the keys that a member of an HA group lacks; see ``service/operator/group_members.py``."""
        return group_members.missing(self._core, device)

    def made_without_members(self, device: Device) -> dict[str, list[str]]:
        """Return the keys made while members of an HA group could not be asked for them, by the members' serials."""
        return group_members.made_without(self._core, device)

    def find_forgettable(self, name: str, *, abandoning: bool = False) -> TokenRow:
        """Return the token of that label or serial, if nothing needs it; see ``service/operator/forgetting.py``."""
        return forgetting.find(self._core, name, abandoning=abandoning)

    def forget_token(self, row: TokenRow, *, abandoning: bool = False) -> Forgotten:
        """Remove a former home that nothing needs from the installation, or nothing but what is abandoned."""
        details = {"label": row.label, "serial": row.serial, "abandoning": abandoning}
        with self._core.audit.acting("ForgetToken", self._core.installation.default_region, details):
            return forgetting.forget(self._core, row, abandoning=abandoning)

    def find_older_material(self, name: str) -> list[OlderMaterial]:
        """Return the older material on the former home of that label or serial, with its last use by the audit log."""
        return older_material.find(self._core, forgetting.named(self._core, name), search_log=True)

    def find_clone(self, device: Device) -> Clone:
        """Describe an open token as a clone; the installation must have been opened to accept it.

        See ``service/operator/clones.py``.
        """
        return clones.find(self._core, device)

    def accept_clone(self, clone: Clone) -> None:
        """Replace the recorded token by its clone."""
        details = {"label": clone.label, "serial": clone.serial, "recordedSerial": clone.recorded_serial}
        with self._core.audit.acting("AcceptClone", self._core.installation.default_region, details):
            clones.accept(self._core, clone)

    def waiting_to_move(self, elsewhere: str | None = None) -> list[Waiting]:
        """Return the keys that encrypt on another token than the home, or than ``elsewhere`` (a token's id, or "")."""
        return migration.waiting(self._core, self._core.tokens.home_id if elsewhere is None else elsewhere)

    def move_keys(self, advance: Callable[[], None]) -> list[Moved]:
        """Rotate the waiting keys onto the home; call ``advance`` after each."""
        return migration.move_keys(self._core, advance)

    def left_behind(self) -> list[Left]:
        """Return the keys that need another token than the home, and why."""
        return migration.left(self._core, self._core.tokens.home_id)

    def left_by_migration(self) -> list[Left]:
        """Return the keys that will need the present tokens after a migration to another one, and why."""
        return migration.left(self._core, "", planned=True)

    @recorded("TrustClock")
    def trust_clock(self) -> None:
        """Confirm that the clock is right, although the database has newer times, written by a wrong clock."""
        clock.trust(self._core)

    def find_differences(self) -> list[Finding]:
        """Return the differences between database and token, and how each can be mended; nothing is mended."""
        return reconcile.find(self._core)

    @recorded("Reconcile", finding="finding", remove="remove", region="region")
    def mend(self, finding: Finding, *, remove: bool = False, region: str | None = None) -> Mended:
        """Mend one difference. The object is removed from the token only with ``remove``."""
        return reconcile.mend(self._core, finding, remove=remove, region=region)

    def _key(self, key_id: str, region: str | None) -> KeyRecord:
        """Return the record of a key: by its id, ARN, alias or alias ARN. Raises NotFoundException."""
        installation = self._core.installation
        root = local_root(installation.account, region or installation.default_region)
        return Call(self._core, Operation.DESCRIBE_KEY, root).find(key_id, aliases=True).record
