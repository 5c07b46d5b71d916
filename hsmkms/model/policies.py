"""Requests and responses about key policies. Source: botocore's KMS model, shape by shape."""

from typing import Annotated

from hsmkms.model.constraints import Length, Pattern
from hsmkms.model.shapes import REQUIRED, KeyId, Limit, Marker, Policy, Shape

PolicyName = Annotated[str, Length(1, 128), Pattern(r"[\w]+")]  # PolicyNameType


class GetKeyPolicyRequest(Shape, frozen=True, kw_only=True):
    """Request a key's policy."""

    key_id: KeyId = REQUIRED
    policy_name: PolicyName | None = None


class GetKeyPolicyResponse(Shape, frozen=True, kw_only=True):
    """The policy's text, exactly as it was stored."""

    policy: Policy
    policy_name: PolicyName


class PutKeyPolicyRequest(Shape, frozen=True, kw_only=True):
    """Replace a key's policy."""

    key_id: KeyId = REQUIRED
    policy_name: PolicyName | None = None
    policy: Policy = REQUIRED
    bypass_policy_lockout_safety_check: bool | None = None


class ListKeyPoliciesRequest(Shape, frozen=True, kw_only=True):
    """Request the names of a key's policies."""

    key_id: KeyId = REQUIRED
    limit: Limit | None = None
    marker: Marker | None = None


class ListKeyPoliciesResponse(Shape, frozen=True, kw_only=True):
    """The names: there is one, ``default``."""

    policy_names: list[PolicyName]
    next_marker: Marker | None = None
    truncated: bool
