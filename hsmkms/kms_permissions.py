"""The operations of ``Kms`` on key policies and grants."""

from abc import ABC, abstractmethod
from typing import TypeVar

from msgspec import Struct

from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation
from hsmkms.model.grants import (
    CreateGrantRequest,
    CreateGrantResponse,
    ListGrantsRequest,
    ListGrantsResponse,
    ListRetirableGrantsRequest,
    RetireGrantRequest,
    RevokeGrantRequest,
)
from hsmkms.model.policies import (
    GetKeyPolicyRequest,
    GetKeyPolicyResponse,
    ListKeyPoliciesRequest,
    ListKeyPoliciesResponse,
    PutKeyPolicyRequest,
)
from hsmkms.service.operations import grants, policies
from hsmkms.service.pipeline import Procedure

Request = TypeVar("Request", bound=Struct)
Response = TypeVar("Response")


class PermissionOperations(ABC):
    """One short method for each operation, as in ``Kms``."""

    @abstractmethod
    def _audited(
        self, operation: Operation, procedure: Procedure[Request, Response], request: Request, caller: Caller | None
    ) -> Response:
        """Run a request through the pipeline, which writes its audit record."""

    def put_key_policy(self, request: PutKeyPolicyRequest, caller: Caller | None = None) -> None:
        """Replace a key's policy."""
        return self._audited(Operation.PUT_KEY_POLICY, policies.put_key_policy, request, caller)

    def get_key_policy(self, request: GetKeyPolicyRequest, caller: Caller | None = None) -> GetKeyPolicyResponse:
        """Return a key's policy."""
        return self._audited(Operation.GET_KEY_POLICY, policies.get_key_policy, request, caller)

    def list_key_policies(
        self, request: ListKeyPoliciesRequest, caller: Caller | None = None
    ) -> ListKeyPoliciesResponse:
        """List the names of a key's policies."""
        return self._audited(Operation.LIST_KEY_POLICIES, policies.list_key_policies, request, caller)

    def create_grant(self, request: CreateGrantRequest, caller: Caller | None = None) -> CreateGrantResponse:
        """Allow a principal some operations with a key."""
        return self._audited(Operation.CREATE_GRANT, grants.create_grant, request, caller)

    def list_grants(self, request: ListGrantsRequest, caller: Caller | None = None) -> ListGrantsResponse:
        """List the grants on a key."""
        return self._audited(Operation.LIST_GRANTS, grants.list_grants, request, caller)

    def list_retirable_grants(
        self, request: ListRetirableGrantsRequest, caller: Caller | None = None
    ) -> ListGrantsResponse:
        """List the grants that a principal may retire."""
        return self._audited(Operation.LIST_RETIRABLE_GRANTS, grants.list_retirable_grants, request, caller)

    def retire_grant(self, request: RetireGrantRequest, caller: Caller | None = None) -> None:
        """Retire a grant whose task is done."""
        return self._audited(Operation.RETIRE_GRANT, grants.retire_grant, request, caller)

    def revoke_grant(self, request: RevokeGrantRequest, caller: Caller | None = None) -> None:
        """Revoke a grant."""
        return self._audited(Operation.REVOKE_GRANT, grants.revoke_grant, request, caller)
