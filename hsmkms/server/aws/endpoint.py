"""Answer one request: check the signature, decode the operation, spend the quota, call the façade, render the outcome.

This module does no network I/O and knows no event loop: the server reads the whole body first, then calls ``answer``.
"""

import logging
import time
from datetime import timedelta
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
from hsmkms.server.aws.quota import DEFAULT_RATES, Quota
from hsmkms.server.aws.sigv4 import Scope
from hsmkms.server.messages import RawRequest
from hsmkms.server.protocol import Handled, Source

log = logging.getLogger("hsmkms.http")

NOTE_USE_EVERY_SECONDS: Final = 60.0


def open_endpoint(kms: Kms, settings: ServeSettings) -> "Endpoint":
    """Open the endpoint of one worker, with its share of the quotas."""
    rates = {name: rate / settings.workers for name, rate in {**DEFAULT_RATES, **settings.quotas}.items()}
    return Endpoint(kms, skew=timedelta(minutes=settings.clock_skew_minutes), quota=Quota(rates))


class Endpoint:
    """Answers requests for an open ``Kms``. Thread-safe."""

    def __init__(self, kms: Kms, *, skew: timedelta, quota: Quota) -> None:
        self._credentials = kms.operator.credentials
        self._regions = frozenset(kms.operator.watch.regions)
        self._clock = kms.operator.watch.now
        self._skew = skew
        self._quota = quota
        self._audit = kms.operator.audit
        self._methods = {operation: getattr(kms, operation.name.lower()) for operation in OPERATIONS}
        self._note_use_at: dict[str, float] = {}
        self.operation_of = protocol.built_operation

    def answer(self, request: RawRequest, request_id: str, source: Source, operation: str | None) -> Handled:
        """Answer a request; every error becomes a response. ``operation``: the result of ``operation_of``."""
        handled = Handled(request_id=request_id)
        try:
            body = self._perform(request, source, operation, handled)
        except HsmKmsError as exc:
            if not handled.admitted:
                self._record_refusal(request, source, handled, exc)
            if exc.fault == "server":
                log.error("request %s failed: %s: %s", handled.request_id, exc.code, exc)  # noqa: TRY400 - no bug
            handled.response = other_services.failure(exc, handled.request_id, request)
        except Exception as exc:
            # The outermost layer: no exception may escape, and the client learns nothing of it.
            log.exception("request %s failed by an unexpected exception", handled.request_id)
            handled.response = protocol.failure(exc, handled.request_id)
        else:
            handled.response = protocol.success(body, handled.request_id)
        return handled

    def largest_body(self, head: RawRequest) -> int:
        """Return the limit in bytes of a request's body, or raise the error of a head that does not look signed."""
        scope = sigv4.check_head(head, self._clock(), self._skew)
        if scope.region not in self._regions:
            self._refuse_region(scope)
        return largest_request(protocol.operation_of(head))

    def _perform(self, request: RawRequest, source: Source, operation: str | None, handled: Handled) -> bytes:
        scope, credential = sigv4.verify(request, self._credentials.find, self._clock(), self._skew)
        if scope.region not in self._regions:
            self._refuse_region(scope)
        if time.monotonic() >= self._note_use_at.get(scope.access_key_id, 0.0):
            self._note_use(scope)
        handled.principal, handled.region = credential.principal, scope.region
        handled.access_key_id = scope.access_key_id
        if not isinstance(operation, Operation):
            operation = protocol.operation_of(request)
        handled.operation = operation
        if operation in self._quota.limited:
            self._quota.spend(credential.principal, operation, time.monotonic())
        members: Any = decode_request(operation, request.body)
        handled.key_id = getattr(members, "key_id", None)
        user_agent = request.headers.get("user-agent")  # cut as in the audit log, since policies match it with patterns
        caller = Caller(
            principal=credential.principal,
            region=scope.region,
            source_address=source.address,
            secure_transport=source.secure,
            request_id=handled.request_id,
            grant_tokens=tuple(getattr(members, "grant_tokens", None) or ()),
            access_key_id=scope.access_key_id,
            user_agent=None if user_agent is None else ",".join(user_agent)[:MAX_USER_AGENT],
        )
        handled.admitted = True
        answer = self._methods[operation](members, caller)
        if answer is None:
            return b""
        handled.key_id = getattr(answer, "key_id", None) or handled.key_id
        return encode_response(answer)

    def _record_refusal(self, request: RawRequest, source: Source, handled: Handled, error: HsmKmsError) -> None:
        """Write the audit record of a request that was refused before the pipeline."""
        caller = Caller(
            principal=handled.principal or "",
            region=handled.region or self._audit.region,
            source_address=source.address,
            secure_transport=source.secure,
            request_id=handled.request_id,
            access_key_id=handled.access_key_id,
            user_agent=(request.header("user-agent") or "")[:MAX_USER_AGENT] or None,
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
