"""Collect what a report for auditors says: keys, their material on the token, who may use them, the audit log."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from msgspec import Struct

from hsmkms.errors import HsmKmsError, KMSInternalException, ValidationException
from hsmkms.model.enums import KeyUsage, MaterialState, RotationType
from hsmkms.model.ids import root_arn
from hsmkms.model.records import GrantRecord, KeyRecord, MaterialRecord
from hsmkms.service.audit import reading, uses
from hsmkms.service.audit.filters import SUCCESS, Wanted
from hsmkms.service.audit.sealing import Sealer
from hsmkms.service.audit.uses import Subject
from hsmkms.service.audit.verification import Progress, Verdict, verify
from hsmkms.service.operator import migration
from hsmkms.service.operator.attestation import Attestation, attest_material
from hsmkms.service.operator.credentials import AccessKey, Credentials
from hsmkms.service.operator.identities import Group, Identities, UserFacts
from hsmkms.service.operator.key_access import Rights, rights
from hsmkms.service.operator.migration import TokenStanding
from hsmkms.service.operator.rotation_report import KeyPosture, rotation_report
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.seal_checks import RowFault
from hsmkms.store import grants, keys

USE_DAYS: Final = 90
"""The uses of the last days are counted, from the audit log."""


class MaterialFacts(Struct, frozen=True, kw_only=True):
    """One backing key. ``attestation``: None if its token could not be read, ``fault`` says why then."""

    key_material_id: str
    sequence: int
    state: MaterialState
    created_at: datetime
    rotation_type: RotationType | None
    valid_to: datetime | None
    token: str
    attestation: Attestation | None
    fault: str | None


class KeyFacts(Struct, frozen=True, kw_only=True):
    """One KMS key in one region.

    ``fault``: why its rows are not proven to be as hsmkms wrote them, and no rights are resolved; or None. ``uses``:
    successful cryptographic operations with it in the last days, by the audit log.
    """

    posture: KeyPosture
    arn: str
    usage: KeyUsage
    description: str
    multi_region: bool
    created_at: datetime
    tags: dict[str, str]
    policy: str
    materials: list[MaterialFacts]
    grants: list[GrantRecord]
    rights: list[Rights]
    uses: int
    fault: str | None


class UserReport(Struct, frozen=True, kw_only=True):
    """A user with policies (by name) and access keys."""

    facts: UserFacts
    policies: dict[str, str]
    access_keys: list[AccessKey]


class GroupReport(Struct, frozen=True, kw_only=True):
    """A group with its policies, by name."""

    facts: Group
    policies: dict[str, str]


class AuditState(Struct, frozen=True, kw_only=True):
    """The audit log as verified for this report.

    ``last_event_id`` and ``last_event_time``: of the newest record when the verification began. ``seal_number`` and
    ``seal_time``: of the newest seal. ``row_faults``: rows of the database that are not as hsmkms wrote them.
    """

    verdict: Verdict
    last_event_id: str | None
    last_event_time: str | None
    seal_number: int
    seal_time: datetime | None
    row_faults: list[RowFault]


class ReportFacts(Struct, frozen=True, kw_only=True):
    """The content of a report. ``uses_by_day``: by ISO date, for each of the last days.

    ``covered``: the regions whose keys it has, of all ``regions``.
    ``uses_known_since``: the time since when the audit log has every record; None if it is empty.
    """

    installation: str
    account: str
    regions: tuple[str, ...]
    covered: tuple[str, ...]
    made_at: datetime
    tokens: list[TokenStanding]
    keys: list[KeyFacts]
    users: list[UserReport]
    groups: list[GroupReport]
    root_access_keys: list[AccessKey]
    audit: AuditState
    uses_by_day: dict[str, int]
    uses_known_since: str | None


def collect(core: Core, region: str | None, archives: Sequence[Path], advance: Progress) -> ReportFacts:
    """Collect everything; ``region``: only its keys. ``archives``: folders with archived files of the audit log.

    ``advance``: called as the log is verified.
    ValidationException for a region that the installation does not have.
    """
    if region is not None and region not in core.installation.regions:
        raise ValidationException(
            f"The installation has no region {region}: it has {', '.join(core.installation.regions)}."
        )
    now = core.clock()
    audit = _audit_state(core, archives, advance)
    by_day, by_key, known_since = _uses(core, now, archives)
    users = _users(core)
    principals = [root_arn(core.installation.account), *(each.facts.arn for each in users)]
    identities = Identities(core)
    return ReportFacts(
        installation=core.installation.id,
        account=core.installation.account,
        regions=core.installation.regions,
        covered=core.installation.regions if region is None else (region,),
        made_at=now,
        tokens=migration.standings(core),
        keys=list(_keys(core, region, principals, by_key)),
        users=users,
        groups=[
            GroupReport(facts=each, policies=dict(identities.group_policies(each.group_name)))
            for each in identities.list_groups()
        ],
        root_access_keys=Credentials(core).list_access_keys(None),
        audit=audit,
        uses_by_day=by_day,
        uses_known_since=known_since,
    )


def _keys(core: Core, region: str | None, principals: Sequence[str], by_key: Counter[str]) -> Iterator[KeyFacts]:
    postures = rotation_report(core, region)
    records = {}
    with core.store.reading() as conn:
        for each in (region,) if region is not None else core.installation.regions:
            records.update({(each, record.key_id): record for record in keys.every(conn, each, core.tokens.home_id)})
    labels = {row.id: f"{row.label} (serial {row.serial})" for row in core.tokens.rows()}
    for posture in sorted(postures, key=lambda each: (each.region, each.key_id)):
        record = records.get((posture.region, posture.key_id))
        if record is not None:
            yield _key(core, record, posture, principals, by_key[record.arn], labels)


def _key(
    core: Core,
    record: KeyRecord,
    posture: KeyPosture,
    principals: Sequence[str],
    use_count: int,
    labels: dict[str, str],
) -> KeyFacts:
    fault, tags, resolved = None, {}, []
    try:
        cached = core.cache.key(record.region, record.key_id)
        if cached is not None:
            tags, resolved = dict(cached.tags()), rights(core, cached, principals)
    except KMSInternalException as exc:
        fault = str(exc)
    return KeyFacts(
        posture=posture,
        arn=record.arn,
        usage=record.usage,
        description=record.description,
        multi_region=record.multi_region,
        created_at=record.creation_date,
        tags=tags,
        policy=record.policy,
        materials=[_material(core, record, each, labels) for each in record.materials],
        grants=_grants(core, record),
        rights=resolved,
        uses=use_count,
        fault=fault,
    )


def _material(core: Core, record: KeyRecord, material: MaterialRecord, labels: dict[str, str]) -> MaterialFacts:
    attestation, fault = None, None
    try:
        attestation = attest_material(core, record, material)
    except HsmKmsError as exc:
        fault = f"{type(exc).__name__}: {exc}"
    return MaterialFacts(
        key_material_id=material.material_id,
        sequence=material.sequence,
        state=material.state,
        created_at=material.created_at,
        rotation_type=material.rotation_type,
        valid_to=material.valid_to,
        token=labels.get(material.token_id, "a token that was forgotten"),
        attestation=attestation,
        fault=fault,
    )


def _grants(core: Core, record: KeyRecord) -> list[GrantRecord]:
    with core.store.reading() as conn:
        count = grants.count(conn, record.region, record.key_id)
        return grants.page(conn, record.region, None, count, key_id=record.key_id) if count else []


def _users(core: Core) -> list[UserReport]:
    credentials, identities = Credentials(core), Identities(core)
    return [
        UserReport(
            facts=identities.user(each.user_name),
            policies=dict(identities.user_policies(each.user_name)),
            access_keys=credentials.list_access_keys(each.user_name),
        )
        for each in credentials.list_users()
    ]


def _audit_state(core: Core, archives: Sequence[Path], advance: Progress) -> AuditState:
    newest = next(iter(reading.tail(core.audit.folder, 1).records), {})
    verdict = verify(core, archives, advance)
    last = Sealer(core).last()
    with core.store.reading() as conn:
        rows = core.seals.verify(conn)
    return AuditState(
        verdict=verdict,
        last_event_id=newest.get("eventID"),
        last_event_time=newest.get("eventTime"),
        seal_number=0 if last is None else last.seal.number,
        seal_time=None if last is None else last.seal.time,
        row_faults=rows,
    )


def _uses(core: Core, now: datetime, archives: Sequence[Path]) -> tuple[dict[str, int], Counter[str], str | None]:
    """Count successful cryptographic operations by day and by key (ARN); return also since when the log has all."""
    first = (now - timedelta(days=USE_DAYS - 1)).date()
    log = uses.lanes([core.audit.folder, *archives])
    counted = uses.count(log, Wanted(start_time=first.isoformat(), outcome=SUCCESS), Subject.KEY)
    days = [(first + timedelta(days=each)).isoformat() for each in range(USE_DAYS)]
    by_day = {day: counted.days[day].requests if day in counted.days else 0 for day in days}
    by_key = Counter(
        {arn: sum(each.requests for each in of_days.values()) for arn, of_days in counted.subjects.items()}
    )
    return by_day, by_key, uses.covered_since(log)
