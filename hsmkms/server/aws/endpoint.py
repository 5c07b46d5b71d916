"""One request from its raw form to its raw answer: signature, operation, quota, pipeline, rendering.

There is no I/O of its own and no event loop here: whoever serves reads the whole body first, then calls ``answer``.
"""

import logging
import time
from datetime import timedelta
from typing import Any, Final

from hsmkms import uuids
from hsmkms.config.settings import ServeSettings
from hsmkms.errors import HsmKmsError, InvalidSignatureException
from hsmkms.kms import Kms
from hsmkms.model.caller import MAX_USER_AGENT, Caller
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.sizes import largest_request
from hsmkms.model.wire import decode_request, encode_response
from hsmkms.server.aws import other_services, protocol, sigv4
from hsmkms.server.aws.quota import DEFAULT_RATES, Quota
from hsmkms.server.aws.sigv4 import Scope
from hsmkms.server.messages import RawRequest
from hsmkms.server.protocol import Handled, Source
from hsmkms.service.operator.credentials import Credential

log = logging.getLogger("hsmkms.http")

NOTE_USE_EVERY_SECONDS: Final = 60.0


def open_endpoint(kms: Kms, settings: ServeSettings) -> "Endpoint":
    """The endpoint of one worker, which has its share of the quotas."""
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
        self._noted: dict[str, float] = {}
        self.operation_of = protocol.built_operation

    def answer(self, request: RawRequest, source: Source, *, just_looked: bool = False) -> Handled:
        """Answer a request, whatever is wrong with it.

        ``just_looked``: since it began to come, this process has looked at what others have changed.
        """
        handled = Handled(request_id=uuids.new())
        try:
            body = self._perform(request, source, handled, just_looked=just_looked)
        except HsmKmsError as exc:
            if not handled.admitted:
                self._record_refusal(request, source, handled, exc)
            if exc.fault == "server":
                log.error("request %s failed: %s: %s", handled.request_id, exc.code, exc)  # noqa: TRY400 - no bug
            handled.response = other_services.failure(exc, handled.request_id, request)
        except Exception as exc:
            # The edge: nothing may escape, and nothing of it may be told.
            log.exception("request %s met a fault of hsmkms", handled.request_id)
            handled.response = protocol.failure(exc, handled.request_id)
        else:
            handled.response = protocol.success(body, handled.request_id)
        return handled

    def largest_body(self, head: RawRequest) -> int:
        """How many bytes the body of a request may have, if its head looks signed; else the error that it gets."""
        self._check_region(sigv4.check_head(head, self._clock(), self._skew))
        return largest_request(protocol.operation_of(head))

    def _perform(self, request: RawRequest, source: Source, handled: Handled, *, just_looked: bool) -> bytes:
        scope, credential = self._authenticate(request, just_looked=just_looked)
        handled.principal, handled.region = credential.principal, scope.region
        handled.access_key_id = scope.access_key_id
        operation = protocol.operation_of(request)
        handled.operation = operation
        self._quota.spend(credential.principal, operation, time.monotonic())
        members: Any = decode_request(operation, request.body)
        handled.key_id = getattr(members, "key_id", None)
        caller = Caller(
            principal=credential.principal,
            region=scope.region,
            source_address=source.address,
            secure_transport=source.secure,
            request_id=handled.request_id,
            grant_tokens=tuple(getattr(members, "grant_tokens", None) or ()),
            just_looked=True,
            access_key_id=scope.access_key_id,
            user_agent=_user_agent(request),
        )
        handled.admitted = True
        answer = self._methods[operation](members, caller)
        if answer is None:
            return b""
        handled.key_id = getattr(answer, "key_id", None) or handled.key_id
        return encode_response(answer)

    def _record_refusal(self, request: RawRequest, source: Source, handled: Handled, error: HsmKmsError) -> None:
        """A request that did not come as far as the pipeline is in the audit log as well."""
        caller = Caller(
            principal=handled.principal or "",
            region=handled.region or self._audit.region,
            source_address=source.address,
            secure_transport=source.secure,
            request_id=handled.request_id,
            access_key_id=handled.access_key_id,
            user_agent=_user_agent(request),
        )
        self._audit.refused(caller, protocol.named_operation(request), error)

    def _authenticate(self, request: RawRequest, *, just_looked: bool) -> tuple[Scope, Credential]:
        found: list[Credential] = []

        def secret_of(access_key_id: str) -> str | None:
            credential = self._credentials.find(access_key_id, just_looked=just_looked)
            if credential is None:
                return None
            found.append(credential)
            return credential.secret

        scope = sigv4.verify(request, secret_of, self._clock(), self._skew)
        self._check_region(scope)
        self._note_use(scope)
        return scope, found[0]

    def _check_region(self, scope: Scope) -> None:
        if scope.region not in self._regions:
            raise InvalidSignatureException(
                f"Credential should be scoped to a valid region, not {scope.region!r}: served here are "
                f"{', '.join(sorted(self._regions))}."
            )

    def _note_use(self, scope: Scope) -> None:
        """Write down the use of an access key, at most once a minute."""
        noted_at = self._noted.get(scope.access_key_id)
        now = time.monotonic()
        if noted_at is not None and now - noted_at < NOTE_USE_EVERY_SECONDS:
            return
        self._noted[scope.access_key_id] = now
        try:
            self._credentials.note_use(scope.access_key_id, scope.region)
        except HsmKmsError as exc:
            log.warning("the use of access key %s could not be written down: %s", scope.access_key_id, exc)


def _user_agent(request: RawRequest) -> str | None:
    """What a client calls itself, no longer than the audit log keeps it: policies compare it with patterns."""
    told = request.header("user-agent")
    return None if told is None else told[:MAX_USER_AGENT]
