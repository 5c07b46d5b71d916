"""The content of a report as JSON values, which all forms show; and the statement at its head."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum, StrEnum
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

if TYPE_CHECKING:
    from hsmkms.service.operator.report_facts import KeyFacts, MaterialFacts, ReportFacts
    from hsmkms.service.operator.reports import ReportKey

FORMAT: Final = "hsmkms report 1"
USES: Final = "UsesInLast90Days"
"""The member of a key that has its uses in the days before the report (``report_facts.USE_DAYS``)."""

Document = dict[str, Any]


class ReportFormat(StrEnum):
    """The value of ``--format``; also the ending of a file's name."""

    HTML = "html"
    CSV = "csv"
    JSON = "json"


class Statement(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a report says of itself. ``signed_by``: the fingerprint of the key that signs it, or "" without one.

    ``regions``: those whose keys it has; ``left_out``: the other regions of the installation. Reports of older versions
    have neither.
    """

    format: str
    installation: str
    account: str
    made_at: str
    program: str
    signed_by: str
    key_version: int
    regions: str = ""
    left_out: str = ""


def statement_of(facts: "ReportFacts", key: "ReportKey | None") -> Statement:
    """Return the statement of a report that a key is about to sign, or none is."""
    return Statement(
        format=FORMAT,
        installation=facts.installation,
        account=facts.account,
        made_at=facts.made_at.astimezone(UTC).isoformat(timespec="seconds"),
        program=f"hsmkms {metadata.version('hsmkms')}",
        signed_by=key.fingerprint if key is not None else "",
        key_version=key.version if key is not None else 0,
        regions=", ".join(facts.covered),
        left_out=", ".join(each for each in facts.regions if each not in facts.covered),
    )


def document(facts: "ReportFacts", statement: Statement) -> Document:
    """Return the content, with members named in the API's style."""
    verdict = facts.audit.verdict
    return {
        "Report": plain(statement),
        "Findings": list(_findings(facts)),
        "Tokens": plain(facts.tokens),
        "Keys": [_key(each) for each in facts.keys],
        "Users": [
            {**plain(each.facts), "Policies": plain(each.policies), "AccessKeys": plain(each.access_keys)}
            for each in facts.users
        ],
        "RootAccessKeys": plain(facts.root_access_keys),
        "Groups": [{**plain(each.facts), "Policies": plain(each.policies)} for each in facts.groups],
        "Audit": {
            **plain(verdict),
            "LastEventId": facts.audit.last_event_id,
            "LastEventTime": facts.audit.last_event_time,
            "NewestSeal": facts.audit.seal_number,
            "NewestSealTime": plain(facts.audit.seal_time),
            "RowFaults": plain(facts.audit.row_faults),
        },
        "UsesByDay": facts.uses_by_day,
        "UsesKnownSince": facts.uses_known_since,
    }


def _key(key: "KeyFacts") -> Document:
    posture = plain(key.posture)
    return {
        "KeyId": posture.pop("KeyId"),
        "Region": posture.pop("Region"),
        "Arn": key.arn,
        "Description": key.description,
        "KeyUsage": key.usage.value,
        "MultiRegion": key.multi_region,
        "CreationDate": plain(key.created_at),
        **posture,
        USES: key.uses,
        "Fault": key.fault,
        "Tags": dict(key.tags),
        "Materials": [_material(each) for each in key.materials],
        "Rights": plain(key.rights),
        "Grants": plain(key.grants),
        "Policy": key.policy,
    }


def _material(material: "MaterialFacts") -> Document:
    members: Document = plain(material)
    attestation = members.pop("Attestation") or {}
    for name in ("KeyId", "KeyMaterialId", "Sequence"):
        attestation.pop(name, None)
    return members | {"Attestation": attestation or None}


def _findings(facts: "ReportFacts") -> Iterator[Document]:
    """Yield what an auditor should look at first."""
    for key in facts.keys:
        about = {"Subject": f"key {key.posture.key_id}", "Region": key.posture.region}
        if key.fault is not None:
            yield about | {"Finding": f"not proven: {key.fault}"}
        if key.posture.problem:
            yield about | {"Finding": f"{key.posture.posture.value}: {key.posture.reason}"}
        for each in key.materials:
            yield from (about | {"Finding": sentence} for sentence in _faults_of(each))
    log = {"Subject": "audit log", "Region": ""}
    for fault in (*facts.audit.verdict.faults, *facts.audit.verdict.unproven):
        yield log | {"Finding": f"{fault.lane} {fault.sequence} {fault.kind}: {fault.detail}"}
    for row in facts.audit.row_faults:
        yield {"Subject": f"database, {row.subject}", "Region": "", "Finding": row.reason}
    for token in facts.tokens:
        if token.away is not None:
            yield {"Subject": f"token {token.label}", "Region": "", "Finding": f"away: {token.away}"}


def _faults_of(material: "MaterialFacts") -> Iterator[str]:
    name, state = f"material {material.key_material_id}", material.attestation
    if state is None:
        yield f"{name} could not be read from its token: {material.fault}"
    elif not state.as_made:
        yield f"{name} is not as it was made: {'; '.join(state.deviations)}"
    elif state.host_unwrapped:
        yield f"{name} has passed through a process of hsmkms in the clear at its import"


def plain(value: Any) -> Any:  # noqa: ANN401 - any value of the facts
    """Return a value as JSON knows it; a struct's members are named in the API's style (CamelCase)."""
    if isinstance(value, Struct):
        return {_camel_case(name): plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
