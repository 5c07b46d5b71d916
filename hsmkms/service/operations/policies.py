"""Key policy operations: put, get and list; checks of a new policy."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from hsmkms.errors import MalformedPolicyDocumentException, NotFoundException, ValidationException
from hsmkms.model.enums import Operation
from hsmkms.model.policies import (
    GetKeyPolicyRequest,
    GetKeyPolicyResponse,
    ListKeyPoliciesRequest,
    ListKeyPoliciesResponse,
    PutKeyPolicyRequest,
)
from hsmkms.model.records import KeyRecord
from hsmkms.rules import paging
from hsmkms.rules.iam import access, principals
from hsmkms.rules.iam import policies as rules
from hsmkms.rules.iam.documents import Policy
from hsmkms.rules.iam.principals import Form, Principal
from hsmkms.service.pipeline import Call, repeated
from hsmkms.service.runtime.core import Core
from hsmkms.store import identities, keys
from hsmkms.store.engine import Connection

log = logging.getLogger("hsmkms.service")

LOCKED_OUT: Final = "The new key policy will not allow you to update the key policy in the future."
NO_SUCH_POLICY: Final = "No such policy exists"
OF_RAM: Final = "AWS_RAM"
_PUT: Final = "kms:PutKeyPolicy"


@repeated
def put_key_policy(call: Call, request: PutKeyPolicyRequest) -> None:
    """Replace a key's policy, effective at the next call of every process."""
    if request.policy_name == OF_RAM:
        raise ValidationException("The AWS_RAM policy can only be managed by the RAM service")
    with call.audited_and_sealed(request.key_id) as (tx, record):
        _check_name(request.policy_name)
        check_new(call, tx, request.policy, record, bypass=request.bypass_policy_lockout_safety_check)
        keys.set_policy(tx, record.key_id, record.region, request.policy, record.version)


def get_key_policy(call: Call, request: GetKeyPolicyRequest) -> GetKeyPolicyResponse:
    """Return a key's policy as it was put."""
    key, _ = call.key(request.key_id)
    _check_name(request.policy_name)
    return GetKeyPolicyResponse(policy=key.policy_text, policy_name=rules.NAME)


def list_key_policies(call: Call, request: ListKeyPoliciesRequest) -> ListKeyPoliciesResponse:
    """Return the names of a key's policies: there is exactly one."""
    call.key(request.key_id)
    paging.page_size(Operation.LIST_KEY_POLICIES, request.limit)
    after = paging.after(Operation.LIST_KEY_POLICIES, request.marker) or ""
    names = [each for each in (rules.NAME,) if each > after]
    return ListKeyPoliciesResponse(policy_names=names, truncated=False)


HOW_TO_ACCEPT: Final = (
    'With permissions.unknown_principals = "accept" in the configuration, users and roles who are not there may be '
    "named."
)


def check_new(
    call: Call,
    conn: Connection,
    text: str,
    record: KeyRecord,
    *,
    bypass: bool | None,
    new_tags: Mapping[str, str] | None = None,
) -> None:
    """Raise if the text cannot be the key's policy: malformed, with unknown principals, or locking out the caller.

    ``new_tags``: the tags of a key about to be created.
    """
    policy = check_principals(call.core, conn, text)
    question = call.question(_PUT, record.arn, call.core.cache.of(record, new_tags))
    if not bypass and not access.keeps_control(question, policy):
        raise MalformedPolicyDocumentException(LOCKED_OUT)
    for note in policy.notes:
        log.info("the new policy of key %s, %s", record.arn, note)


def check_principals(core: Core, conn: Connection, text: str) -> Policy:
    """Parse a policy, checking that its principals exist. MalformedPolicyDocumentException if not."""
    policy = rules.read_key_policy(text, core.installation.account)
    if core.accept_unknown_principals:
        return policy
    named = (principals.parse(each) for each in sorted(policy.users | policy.roles))
    unknown = [each for each in named if each is not None and is_unknown(core, conn, each)]
    if unknown:
        raise MalformedPolicyDocumentException(
            f"Policy contains a statement with one or more invalid principals: {_reason(unknown)}"
        )
    return policy


def _reason(unknown: Sequence[Principal]) -> str:
    """Describe all unknown principals in one sentence, and what to do about them."""
    gone = [each.text for each in unknown if each.form is Form.USER_ID]
    missing = [each.text for each in unknown if each.form is not Form.USER_ID]
    reasons = [f"no user has the id {' or '.join(gone)} any more; remove it."] if gone else []
    reasons += [f"there is no {' and no '.join(missing)}. {HOW_TO_ACCEPT}"] if missing else []
    return " ".join(reasons)


def is_unknown(core: Core, conn: Connection, principal: Principal) -> bool:
    """Return True for a user or role of the account that does not exist."""
    if not principal.must_exist(core.installation.account):
        return False
    if principal.form is Form.USER_ID:
        return not identities.user_id_exists(conn, principal.text)
    if principal.form is Form.USER:
        path, name = principals.user_of(principal.text)
        return not identities.user_exists(conn, name, path)
    return True


def _check_name(name: str | None) -> None:
    if name not in (None, rules.NAME):
        raise NotFoundException(NO_SUCH_POLICY)
