"""Types of the audit log: records in the format of AWS CloudTrail, and the seals over their hash chains.

Source: AWS CloudTrail User Guide, "CloudTrail record contents"; AWS KMS Developer Guide, "Logging AWS KMS API calls".
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

EVENT_VERSION: Final = "1.11"
KMS_SOURCE: Final = "kms.amazonaws.com"
IAM_SOURCE: Final = "iam.amazonaws.com"
INTERNAL: Final = "AWS Internal"
"""CloudTrail's value for events without a caller: here, of hsmkms itself."""


class Durability(StrEnum):
    """When a record is on the disk."""

    COMMIT = "commit"
    """Before its request is answered; requests of one moment share one wait for the disk."""
    INTERVAL = "interval"
    """A short time later: a crash may lose that much."""
    OFF = "off"
    """Never: no audit log is written."""


_NAMES: Final = {
    "source_ip_address": "sourceIPAddress",
    "request_id": "requestID",
    "event_id": "eventID",
    "arn": "ARN",
}


def _name(member: str) -> str:
    """Return CloudTrail's name for a member: lower camel case, except abbreviations."""
    first, *others = member.split("_")
    return _NAMES.get(member) or first + "".join(map(str.capitalize, others))


class Resource(Struct, frozen=True, kw_only=True, rename=_name):
    """A key or an alias that a request concerned."""

    account_id: str
    type: str
    arn: str


class AuditRecord(Struct, frozen=True, kw_only=True, rename=_name):
    """One record. Members without a value are null, or absent if CloudTrail omits them."""

    event_version: str = EVENT_VERSION
    user_identity: Mapping[str, Any] | msgspec.Raw
    event_time: str
    event_source: str = KMS_SOURCE
    event_name: str
    aws_region: str
    source_ip_address: str
    user_agent: str
    error_code: str | UnsetType = UNSET
    error_message: str | UnsetType = UNSET
    request_parameters: Mapping[str, Any] | msgspec.Raw | None = None
    response_elements: Mapping[str, Any] | msgspec.Raw | None = None
    additional_event_data: Mapping[str, Any] | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    event_id: str
    read_only: bool
    resources: tuple[Resource, ...] = ()
    event_type: str = "AwsApiCall"
    management_event: bool = True
    recipient_account_id: str
    service_event_details: Mapping[str, Any] | UnsetType = UNSET
    event_category: str = "Management"


class Head(Struct, frozen=True, kw_only=True):
    """The end of a chain: the number of its last record, that record's hash (hex), and its segment."""

    sequence: int
    hash: str
    segment: int


class PublishedHead(Struct, frozen=True, kw_only=True):
    """The end of a node's lane as the node has published it in the database, for the seals of all nodes.

    ``acceptance``: the number of the newest seal by which that node's log was accepted as it was, 0 if there is none:
    since then the lane may be shorter than it was before. ``at``: the time, by the node's clock.
    """

    node: str
    lane: str
    acceptance: int
    head: Head
    at: datetime

    @property
    def age(self) -> tuple[int, int]:
        """The order of the ends of one lane: a later one is greater."""
        return self.acceptance, self.head.sequence


class Fault(Struct, frozen=True, kw_only=True, order=True):
    """A place where the log differs from what was written. ``sequence``: the first record concerned."""

    lane: str
    sequence: int
    kind: str
    detail: str


class LaneSeal(Struct, frozen=True, kw_only=True):
    """The state of a chain that a seal covers. ``start``: the end of the archived part."""

    head: Head
    start: Head | None = None


class NodeSeal(Struct, frozen=True, kw_only=True):
    """The end of a chain of another node, as that had published it when a seal was made."""

    acceptance: int
    head: Head


class Seal(Struct, frozen=True, kw_only=True):
    """One seal over all chains. ``previous``: SHA-256 of the line of the seal before it (hex), "" before the first.

    ``epoch``: the epoch of the control-plane database. ``root_number`` and ``root``: the seal over its rows (hex), 0
    and "" if it was not sealed. ``accepted``: the faults that the operator has accepted. ``node``: the id of the node
    whose log this is; without it, the databases were files of the data folder. ``acceptance``: the number of the newest
    seal of this log, up to this one, that accepts it; ``nodes``: what other nodes have published, by node and lane.
    """

    number: int
    time: datetime
    installation: str
    key_version: int
    epoch: int
    previous: str
    lanes: Mapping[str, LaneSeal]
    accepted: tuple[Fault, ...] = ()
    restored: bool = False
    root_number: int = 0
    root: str = ""
    node: str | UnsetType = UNSET
    acceptance: int | UnsetType = UNSET
    nodes: Mapping[str, Mapping[str, NodeSeal]] | UnsetType = UNSET
