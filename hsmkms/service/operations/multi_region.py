"""Replicate multi-Region keys, and move the primary key of a set to another region.

All regions of an installation share one token and one database, and a replica shares the backing keys of its primary
key. So the token is not involved, each operation is one transaction, and what takes seconds at AWS is complete when the
response is sent: the states Creating and Updating are over by the next call.
"""

import logging

from msgspec.structs import replace

from hsmkms.errors import NotFoundException, UnsupportedOperationException
from hsmkms.model.enums import KeyState
from hsmkms.model.ids import key_arn
from hsmkms.model.keys import ReplicateKeyRequest, ReplicateKeyResponse, UpdatePrimaryRegionRequest
from hsmkms.model.records import KeyRecord
from hsmkms.model.shapes import Tag
from hsmkms.rules import multi_region as rules
from hsmkms.rules.regions import refuse
from hsmkms.service.operations.keys import first_policy, first_tags, may_tag, metadata
from hsmkms.service.operations.policies import check_new
from hsmkms.service.pipeline import Call, repeated
from hsmkms.store import keys, regions

log = logging.getLogger("hsmkms.service")


def replicate_key(call: Call, request: ReplicateKeyRequest) -> ReplicateKeyResponse:
    """Create a replica of a multi-Region primary key in another region, with its own policy, tags and state."""
    core, region = call.core, request.replica_region
    tags = first_tags(request.tags)
    policy = first_policy(core, request.policy)
    key, _ = call.key(request.key_id)
    if region not in core.installation.regions:
        refuse(region, core.installation.regions, UnsupportedOperationException)
    there = call.elsewhere(region)
    arn = key_arn(core.installation.account, region, key.record.key_id)

    def replica_of(primary: KeyRecord) -> KeyRecord:
        return replace(
            primary,
            region=region,
            arn=arn,
            state=rules.state_of_new_replica(primary),
            description=request.description or "",
            policy=policy,
            creation_date=call.now,
            regions=tuple(sorted((*primary.regions, region))),
        )

    draft = replica_of(key.record)
    there.permit_without_key("kms:CreateKey", new_key=draft)
    if tags:
        may_tag(there, draft)
    with call.audited_and_sealed_resolved(key.record) as (tx, primary):
        rules.check_free(primary, region, arn)
        replica = replica_of(primary)
        if request.policy is not None:
            bypass = request.bypass_policy_lockout_safety_check
            check_new(there, tx, policy, replica, bypass=bypass, new_tags=tags)
        regions.insert_replica(tx, replica, tags)
    core.reached("replicate-key 1: result")
    call.resources.append(arn)
    log.info("replicated key %s to %s", primary.arn, region)
    return ReplicateKeyResponse(
        replica_key_metadata=metadata(call, replace(replica, state=KeyState.CREATING, materials=())),
        replica_policy=policy,
        replica_tags=[Tag(tag_key=name, tag_value=value) for name, value in tags.items()] or None,
    )


@repeated
def update_primary_region(call: Call, request: UpdatePrimaryRegionRequest) -> None:
    """Make a replica the primary key of its set, and the primary key a replica; both remain usable."""
    region = request.primary_region
    with call.audited_and_sealed(request.key_id) as (tx, primary):
        if region not in call.core.installation.regions:
            refuse(region, call.core.installation.regions, UnsupportedOperationException)
        rules.check_other(primary, region)
        replica = keys.fetch(tx, region, primary.key_id)
        there = call.elsewhere(region)
        if replica is None:
            arn = key_arn(call.core.installation.account, region, primary.key_id)
            there.authorise_unknown(f"kms:{call.operation}", arn)
            raise NotFoundException(f"Key '{arn}' does not exist: make a replica there with ReplicateKey first")
        # Authorised as the primary key that it becomes.
        there.authorise_and_check(replace(replica, primary_region=region))
        regions.set_primary(tx, primary.key_id, region)
    call.core.reached("update-primary-region 1: result")
    log.info("the primary key of %s is in %s from now on", primary.key_id, region)
