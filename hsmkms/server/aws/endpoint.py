"""Answer one request in stages: verify and decode it, call the façade, render the outcome.

This module does no network I/O and knows no event loop: the server reads the whole body first.
"""

import logging
import time
from datetime import timedelta
from functools import partial
from typing import Any, Final, Never

from hsmkms.config.settings import ServeSettings
from hsmkms.errors import HsmKmsError, InvalidSignatureException
from hsmkms.kms import Kms
from hsmkms.model.caller import MAX_USER_AGENT, Caller
from hsmkms.model.enums import Operation
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.sizes import largest_request
from hsmkms.model.wire import decode_request, encode_response
from hsmkms.server.aws import other_services, protocol, sigv4
from hsmkms.server.aws.plans import Plan, keep
from hsmkms.server.aws.quota import DEFAULT_RATES, Quota
from hsmkms.server.aws.sigv4 import BEFORE_SIGNATURE, Scope
from hsmkms.server.messages import RawRequest, Response
from hsmkms.server.protocol import Handled, Source

log = logging.getLogger("hsmkms.http")

UNEXPECTED: Final = "request %s failed by an unexpected exception"

_SIGN: Final = Operation.SIGN
NOTE_USE_EVERY_SECONDS: Final = 60.0


def open_endpoint(kms: Kms, settings: ServeSettings) -> "Endpoint":
    """Open the endpoint of one worker, with its share of the quotas."""
    rates = {name: rate / settings.workers for name, rate in {**DEFAULT_RATES, **settings.quotas}.items()}
    return Endpoint(kms, skew=timedelta(minutes=settings.clock_skew_minutes), quota=Quota(rates))


class Endpoint:
    """Answers requests for an open ``Kms``. Thread-safe."""

    def __init__(self, kms: Kms, *, skew: timedelta, quota: Quota) -> None:
        self._credentials = kms.operator.credentials
        self._derived = self._credentials.derived
        self._regions = frozenset(kms.operator.watch.regions)
        self._clock = kms.operator.watch.now
        self._skew = skew
        self._quota = quota
        self._audit = kms.operator.audit
        self._methods = {operation: getattr(kms, operation.name.lower()) for operation in OPERATIONS}
        self._note_use_at: dict[str, float] = {}
        self.operation_of = protocol.built_operation

    def authenticate(self, request: RawRequest, source: Source, operation: str | None, handled: Handled) -> None:
        """Verify the signature, spend the quota, and decode the request. ``operation``: that of ``operation_of``."""
        try:
            try:
                self._authenticate(request, source, operation, handled)
            except HsmKmsError as exc:
                self._record_refusal(request, source, handled, exc)
                raise
        except HsmKmsError as exc:
            _log_server_fault(handled.request_id, exc)
            handled.response = other_services.failure(exc, handled.request_id, request)
        except Exception as exc:
            # The outermost layer: no exception may escape, and the client learns nothing of it.
            log.exception(UNEXPECTED, handled.request_id)
            handled.response = protocol.failure(exc, handled.request_id)

    def perform(self, handled: Handled) -> None:
        """Call the façade with an authenticated request."""
        if handled.call is None:
            return
        try:
            handled.outcome = handled.call()
        except HsmKmsError as exc:
            _log_server_fault(handled.request_id, exc)
            handled.response = protocol.failure(exc, handled.request_id)
        except Exception as exc:
            # The outermost layer: no exception may escape, and the client learns nothing of it.
            log.exception(UNEXPECTED, handled.request_id)
            handled.response = protocol.failure(exc, handled.request_id)

    def render(self, handled: Handled) -> None:
        """Encode the outcome; the body is empty if the API returns nothing."""
        if handled.response is not None:
            return
        outcome, body = handled.outcome, b""
        if outcome is not None:
            handled.key_id = getattr(outcome, "key_id", None) or handled.key_id
            try:
                body = encode_response(outcome)
            except Exception as exc:
                log.exception(UNEXPECTED, handled.request_id)
                handled.response = protocol.failure(exc, handled.request_id)
                return
        headers = (protocol.TYPE_HEADER, (protocol.REQUEST_ID, handled.request_id))
        handled.response = Response(protocol.OK, headers, body)

    def largest_body(self, head: RawRequest) -> int:
        """Return the limit in bytes of a request's body, or raise the error of a head that does not look signed."""
        scope = sigv4.check_head(head, self._clock(), self._skew)
        if scope.region not in self._regions:
            self._refuse_region(scope)
        return largest_request(protocol.operation_of(head))

    def _authenticate(self, request: RawRequest, source: Source, operation: str | None, handled: Handled) -> None:
        plans, headers = self._derived().plans, request.headers  # before anything that a plan is made of is read
        front, _, signature = headers.get("authorization", "").rpartition(BEFORE_SIGNATURE)
        alike = (front, operation, request.query, *headers)
        plan = plans.get(alike)
        if plan is None:
            plan = self._new_plan(request, handled)
            if sigv4.is_usual(request):  # else front and signature may be in another order
                keep(plans, alike, plan)
        else:
            plan.signing.check(request, signature, self._clock(), self._skew)
            handled.principal, handled.region = plan.principal, plan.region
            handled.access_key_id, handled.operation = plan.access_key_id, plan.operation
        if time.monotonic() >= self._note_use_at.get(plan.access_key_id, 0.0):
            self._note_use(plan.signing.scope)
        if plan.is_limited:
            self._quota.spend(plan.principal, plan.operation, time.monotonic())
        members: Any = decode_request(plan.operation, request.body)
        handled.key_id = getattr(members, "key_id", None)
        if plan.operation is _SIGN:
            handled.algorithm = members.signing_algorithm
        caller = Caller(
            principal=plan.principal,
            region=plan.region,
            source_address=source.address,
            secure_transport=source.secure,
            request_id=handled.request_id,
            grant_tokens=tuple(getattr(members, "grant_tokens", None) or ()),
            access_key_id=plan.access_key_id,
            # cut as in the audit log, since policies match it with patterns
            user_agent=headers["user-agent"][:MAX_USER_AGENT] if "user-agent" in headers else None,
        )
        handled.call = partial(plan.method, members, caller)

    def _new_plan(self, request: RawRequest, handled: Handled) -> Plan:
        """Verify the signature, and resolve region and operation."""
        signing, credential = sigv4.verify(request, self._credentials.find, self._clock(), self._skew)
        scope = signing.scope
        if scope.region not in self._regions:
            self._refuse_region(scope)
        handled.principal, handled.region = credential.principal, scope.region
        handled.access_key_id = scope.access_key_id
        operation = protocol.operation_of(request)
        handled.operation = operation
        return Plan(
            signing=signing,
            principal=credential.principal,
            region=scope.region,
            access_key_id=scope.access_key_id,
            operation=operation,
            is_limited=operation in self._quota.limited,
            method=self._methods[operation],
        )

    def _record_refusal(self, request: RawRequest, source: Source, handled: Handled, error: HsmKmsError) -> None:
        """Write the audit record of a request that was refused before the pipeline."""
        caller = Caller(
            principal=handled.principal or "",
            region=handled.region or self._audit.region,
            source_address=source.address,
            secure_transport=source.secure,
            request_id=handled.request_id,
            access_key_id=handled.access_key_id,
            user_agent=request.headers.get("user-agent", "")[:MAX_USER_AGENT] or None,
        )
        self._audit.refused(caller, protocol.named_operation(request), error)

    def _refuse_region(self, scope: Scope) -> Never:
        raise InvalidSignatureException(
            f"Credential should be scoped to a valid region, not {scope.region!r}: served here are "
            f"{', '.join(sorted(self._regions))}."
        )

    def _note_use(self, scope: Scope) -> None:
        """Store when an access key was last used; called at most once a minute for each."""
        self._note_use_at[scope.access_key_id] = time.monotonic() + NOTE_USE_EVERY_SECONDS
        try:
            self._credentials.note_use(scope.access_key_id, scope.region)
        except HsmKmsError as exc:
            log.warning("the last use of access key %s could not be stored: %s", scope.access_key_id, exc)


def _log_server_fault(request_id: str, error: HsmKmsError) -> None:
    if error.fault == "server":
        log.error("request %s failed: %s: %s", request_id, error.code, error)
