"""Simulate an authorisation decision and name the policy that makes it, without doing anything."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from hsmkms.errors import ValidationException
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import ReEncryptRequest
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.rules.iam import access
from hsmkms.rules.iam.documents import ACTIONS, action_hint
from hsmkms.service.operator.policy_notes import about_action
from hsmkms.service.pipeline import EVERYTHING, Call
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.record_cache import CachedKey

WITHOUT_KEY: Final = frozenset(
    {
        Operation.CREATE_KEY,
        Operation.DESCRIBE_CUSTOM_KEY_STORES,
        Operation.GENERATE_RANDOM,
        Operation.LIST_ALIASES,
        Operation.LIST_KEYS,
        Operation.LIST_RETIRABLE_GRANTS,
    }
)
CONTEXTS: Final = {
    "kms:ReEncryptFrom": "SourceEncryptionContext",
    "kms:ReEncryptTo": "DestinationEncryptionContext",
}
_KEYS: Final = {
    "kms:ReEncryptFrom": "SourceKeyId",
    "kms:ReEncryptTo": "DestinationKeyId",
    "kms:CreateAlias": "TargetKeyId",
    "kms:UpdateAlias": "TargetKeyId",
    "kms:DeleteAlias": "TargetKeyId",
}


class Simulation(Struct, frozen=True, kw_only=True):
    """A simulated decision. ``decided_by`` and ``statement``: the policy or grant that makes it, if one does.

    ``notes``: parts of the policies' statements about the action that no caller or request here can ever match.
    """

    decision: str
    principal: str
    action: str
    resource: str
    decided_by: str | None
    statement: str | None
    delegated_by: str | None
    reason: str | None
    notes: list[str]


def simulate(
    core: Core,
    caller: Caller,
    action: str,
    key_id: str | None,
    encryption_context: Mapping[str, str] | None,
    members: Mapping[str, Any],
) -> Simulation:
    """Decide about an action (``kms:Encrypt``) of a caller. ``members``: further members of the request, by wire names.

    ValidationException for an unknown action or a request that does not fit it, NotFoundException for an unknown key.
    """
    known = _action(action)
    operation = Operation.RE_ENCRYPT if known in CONTEXTS else Operation(known.removeprefix("kms:"))
    key: CachedKey | None = None
    call = Call(core, operation, caller, request_for(operation, known, key_id, encryption_context, members))
    if operation in WITHOUT_KEY:
        question = call.question(known, EVERYTHING)
    elif key_id is None:
        raise ValidationException(f"{known} needs a key: name one.")
    else:
        key = call.find(key_id, aliases=True)
        if isinstance(call.request, ReEncryptRequest) and call.request.destination_key_id is not None:
            call.resources.append(call.find(call.request.destination_key_id, aliases=True).record.arn)  # decided first
        question = call.question(known, key.record.arn, key)
    decision = core.authorise.decide(question)
    own = core.cache.identity(caller.principal, core.installation.account).own
    return Simulation(
        decision=decision.outcome.value,
        principal=caller.principal,
        action=known,
        resource=question.resource,
        decided_by=decision.policy,
        statement=decision.statement,
        delegated_by=decision.delegated_by,
        reason=None if decision.allowed else str(access.refusal(question, decision)),
        notes=about_action(known, None if key is None else key.policy(), own),
    )


def _action(action: str) -> str:
    """Return the known action for a name with or without ``kms:``, in any letter case. ValidationException."""
    wanted = action.lower() if ":" in action else f"kms:{action.lower()}"
    known = next((each for each in ACTIONS if each.lower() == wanted), None)
    if known is None:
        hint = action_hint(wanted, "kms:ReEncryptFrom")
        raise ValidationException(f"{action!r} is no action of KMS: {hint}")
    if known == "kms:RetireGrant":
        raise ValidationException("The grant itself decides who may retire it: list-grants shows it.")
    return known


def request_for(
    operation: Operation,
    action: str,
    key_id: str | None,
    encryption_context: Mapping[str, str] | None,
    members: Mapping[str, Any],
) -> Struct | None:
    """Build the request to decide about; None for an operation that is not implemented."""
    shape = OPERATIONS.get(operation)
    if shape is None:
        return None
    given = dict(members)
    names = {each.encode_name for each in msgspec.structs.fields(shape.request)}
    if key_id is not None and _KEYS.get(action, "KeyId") in names:
        given.setdefault(_KEYS.get(action, "KeyId"), key_id)
    context = CONTEXTS.get(action, "EncryptionContext")
    if encryption_context is not None:
        if operation is Operation.CREATE_GRANT:
            given.setdefault("Constraints", {"EncryptionContextEquals": dict(encryption_context)})
        elif context in names:
            given.setdefault(context, dict(encryption_context))
        else:
            raise ValidationException(f"{action} has no encryption context.")
    try:
        request: Struct = msgspec.convert(given, shape.request)
    except msgspec.ValidationError as exc:
        raise ValidationException(f"That is no request of {operation}: {exc}.") from exc
    return request
