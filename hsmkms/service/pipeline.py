"""Run a request: resolve the key, authorise, check the state, issue a permit, act, write the audit record.

A ``Call`` is one request in this pipeline. Procedures get it instead of a caller, so that none can act for a caller who
was not authorised. The permits of requests are issued here, those of the installation's own work in permits.py.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.errors import (
    AccessDeniedException,
    HsmKmsError,
    InvalidArnException,
    InvalidCiphertextException,
    InvalidGrantTokenException,
    KMSInternalException,
    NotFoundException,
    ObjectLostError,
    ValidationException,
)
from hsmkms.hsm.ports import Device
from hsmkms.model.caller import Caller
from hsmkms.model.constraints import validate
from hsmkms.model.crypto import ReEncryptRequest
from hsmkms.model.enums import KeyManager, Operation, Origin
from hsmkms.model.ids import KeyRef, RefKind, alias_arn, key_arn, parse_key_ref, root_arn, unknown
from hsmkms.model.permit import LIFETIME_SECONDS, Permit
from hsmkms.model.records import GrantRecord, KeyRecord
from hsmkms.rules import blob, kinds, regions, states
from hsmkms.rules.iam import managed
from hsmkms.rules.iam.grant_token import INVALID as INVALID_GRANT_TOKEN
from hsmkms.rules.iam.question import Identity, Question
from hsmkms.service import grant_tokens
from hsmkms.service.keys import expiry as lapses
from hsmkms.service.keys import service_keys
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.last_use import of_this_key
from hsmkms.service.runtime.record_cache import Admission, AdmissionKey, CachedKey
from hsmkms.store import keys
from hsmkms.store.engine import Connection

Request = TypeVar("Request", bound=Struct)
Response = TypeVar("Response")
Procedure = Callable[["Call", Request], Response]

UNKNOWN_CIPHERTEXT_KEY: Final = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
    "or you are not allowed to access."
)
DRY_RUN: Final = "The request would have succeeded, but the DryRun option is set."
EVERYTHING: Final = "*"
"""The resource of an operation that is about no key."""
MAX_ADMISSIONS: Final = 20_000
"""Cache limit in admissions; when it is reached the cache is cleared."""
QUICK: Final = frozenset(
    {
        Operation.DECRYPT,
        Operation.DESCRIBE_KEY,
        Operation.ENCRYPT,
        Operation.GENERATE_DATA_KEY,
        Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT,
        Operation.GENERATE_MAC,
        Operation.GENERATE_RANDOM,
        Operation.GET_KEY_ROTATION_STATUS,
        Operation.RE_ENCRYPT,
        Operation.VERIFY_MAC,
    }
)
"""Operations that a soft token does in microseconds: one or two calls to it, and no write but their count."""
_NOTHING: Final[frozenset[bytes]] = frozenset()
_ALIAS: Final = RefKind.ALIAS
_EXTERNAL: Final = Origin.EXTERNAL
_AWS: Final = KeyManager.AWS


class Call:
    """One request of one caller. ``now``: the instant for all its decisions."""

    __slots__ = (
        "admissions",
        "caller",
        "core",
        "ended_grant_token",
        "identity",
        "material_id",
        "now",
        "operation",
        "region",
        "request",
        "resources",
    )

    def __init__(self, core: Core, operation: Operation, caller: Caller, request: Struct | None = None) -> None:
        self.core = core
        self.request = request
        self.operation = operation
        self.caller = caller
        self.region = caller.region
        self.now: datetime = core.clock()
        self.identity: Identity | None = None
        """The caller, as of the last key that was looked up."""
        self.resources: list[str] = []
        """ARNs for the audit record, in the order of their authorisation; refused ones too."""
        self.material_id: str | None = None
        self.ended_grant_token = False
        """True if the request has the token of an ended grant: an error that only callers who may use the key get."""

    # -- resolve, authorise, state, permit ----------------------------------------------------------------------

    def key(self, key_id: str, *, aliases: bool = False, action: str | None = None) -> tuple[CachedKey, Permit]:
        """Return the key that ``KeyId`` names with a permit to use it, or raise the error for the caller.

        ``aliases``: alias names and alias ARNs are taken too. ``action``: what is authorised, if not the operation.
        """
        what = (key_id, aliases, action, self.operation, self.caller.principal, self.region)
        return self._admitted_before(what) or self._admit_named(what, key_id, aliases=aliases, action=action)

    def key_of_ciphertext(self, key_id: str, *, action: str | None = None) -> tuple[CachedKey, Permit]:
        """Return the key that a ciphertext names, with a permit; unknown and forbidden keys give the same error."""
        what = (key_id, False, action, self.operation, self.caller.principal, self.region)
        known = self._admitted_before(what)
        if known is not None:
            return known
        action = action or f"kms:{self.operation}"
        cached = self._key_and_caller(self.region, key_id)
        if cached is None:
            self.authorise_unknown(action, key_arn(self.core.installation.account, self.region, key_id))
            raise AccessDeniedException(UNKNOWN_CIPHERTEXT_KEY)
        return self._admit(what, cached, action, "")

    def find(self, key_id: str, *, aliases: bool = False) -> CachedKey:
        """Return the key that ``KeyId`` names, without authorisation; NotFoundException if there is none."""
        account = self.core.installation.account
        ref = parse_key_ref(key_id, account=account, region=self.region, aliases=aliases)
        cached = self._look_up(ref)
        if cached is None:
            raise unknown(ref, account)
        return cached

    def _source_key_id(self) -> str | None:
        """Return the id of ReEncrypt's source key: the request's, or else the ciphertext's."""
        request = self.request
        if not isinstance(request, ReEncryptRequest):
            return None
        try:
            if request.source_key_id is not None:
                return self.find(request.source_key_id, aliases=True).record.key_id
            return blob.parse(request.ciphertext_blob or b"").key_id
        except (InvalidArnException, InvalidCiphertextException, NotFoundException):
            return None

    def _days_without_use(self, key: CachedKey | None) -> int | None:
        """Return the whole days since the key's last use, or since its creation or the start of tracking."""
        if key is None:
            return None
        uses, record = self.core.uses, key.record
        use = of_this_key(uses.last(record.key_id, record.region), record)
        since = use.used_at if use is not None else max(record.creation_date, uses.tracked_since())
        return max(0, (self.now - since).days)

    def _key_and_caller(self, region: str, key_id: str) -> CachedKey | None:
        """Return the key as it is now; store the caller, read at the same moment, in ``identity``."""
        cache = self.core.cache
        cached = cache.key(region, key_id)
        self.identity = cache.identity(self.caller.principal, self.core.installation.account, just_looked=True).identity
        return cached

    def renewed(self, key: CachedKey) -> tuple[CachedKey, Permit]:
        """Return an admitted key after this call has rotated it, with a new permit if its present state allows."""
        record = key.record
        fresh = self.core.cache.key(record.region, record.key_id) or key
        states.admit(self.operation, fresh.record, self.now)
        return fresh, self._permit(fresh.covers, fresh.record.version, self._seconds_left(fresh.record))

    def device(self, key: CachedKey) -> Device:
        """Return the token with the key's current material."""
        return self.core.tokens.of(key.current_token_id)

    def permit_without_key(
        self, action: str | None = None, resource: str = EVERYTHING, new_key: KeyRecord | None = None
    ) -> Permit:
        """Authorise an operation on a resource that is no key yet; return a permit that covers no object.

        ``action``: what to authorise, if not the operation. ``new_key``: the key to be created, if the request alone
        does not describe it.
        """
        self.resources.append(root_arn(self.core.installation.account))
        question = self.question(action or f"kms:{self.operation}", resource)
        question.new_key = new_key
        self.core.authorise(question)
        return self._permit(_NOTHING, 0, LIFETIME_SECONDS)

    def new_objects(self, *cka_ids: bytes) -> Permit:
        """Return a permit for objects that belong to no record (yet), for an operation that was admitted."""
        return self._permit(frozenset(cka_ids), 0, LIFETIME_SECONDS)

    def authorise_alias(self, name: str) -> str:
        """Authorise the operation on an alias, and return its ARN."""
        arn = alias_arn(self.core.installation.account, self.region, name)
        self.resources.append(arn)
        self.core.authorise(self.question(f"kms:{self.operation}", arn))
        return arn

    def elsewhere(self, region: str) -> "Call":
        """Return the same call for another region; the resources that it uses there are recorded with the others."""
        there = Call(self.core, self.operation, replace(self.caller, region=region), self.request)
        there.now, there.resources = self.now, self.resources
        return there

    @contextmanager
    def audited_and_sealed(self, key_id: str) -> Iterator[tuple[Connection, KeyRecord]]:
        """Run a write transaction on a key: resolve and authorise it, and check in the transaction that it admits this.

        At its commit the audit record and the seals are written (``Core.audited_and_sealed``).
        """
        cached, _ = self.key(key_id)
        with self.audited_and_sealed_resolved(cached.record) as both:
            yield both

    @contextmanager
    def audited_and_sealed_resolved(self, seen: KeyRecord) -> Iterator[tuple[Connection, KeyRecord]]:
        """Do the same for a key that this call has resolved and authorised already."""
        with self.core.audited_and_sealed() as tx:
            record = keys.fetch(tx, self.region, seen.key_id)
            if record is None:
                raise NotFoundException(f"Key '{seen.arn}' does not exist")
            # Again: the set may have another primary key by now.
            kinds.ADMIT[self.operation](self.operation, record, self.now)
            yield tx, record

    # -- what operations have in common -------------------------------------------------------------------------

    def question(
        self, action: str, resource: str, key: CachedKey | None = None, *, about_key: bool = False, shown: str = ""
    ) -> Question:
        """Return the input of the decision whether the caller may do ``action`` on ``resource``."""
        account = self.core.installation.account
        identity = self.identity
        if key is None or identity is None:  # else it was read together with the key
            looked = key is not None
            identity = self.core.cache.identity(self.caller.principal, account, just_looked=looked).identity
        return Question(
            caller=self.caller,
            identity=identity,
            operation=self.operation,
            request=self.request,
            account=account,
            instant=self.now,
            action=action,
            resource=resource,
            about_key=about_key or key is not None,
            key=key,
            before=self.resources,
            source_key_id=self._source_key_id,
            days_without_use=lambda: self._days_without_use(key),
            shown=shown,
        )

    def authorise_retiring(self, key: CachedKey, grant: GrantRecord) -> None:
        """Authorise retiring a grant, which the grant itself may allow."""
        question = self.question(f"kms:{self.operation}", key.record.arn, key)
        question.retired = grant
        self.resources.append(key.record.arn)
        self.core.authorise(question)

    def authorise_and_check(self, record: KeyRecord, shown: str = "") -> None:
        """Authorise the operation on a key and check that the key's kind and state allow it.

        ``shown``: the resource as error messages name it, if not by the key's ARN.
        """
        self._authorise_and_check(self.core.cache.of(record), f"kms:{self.operation}", shown)

    def _authorise_and_check(self, cached: CachedKey, action: str, shown: str) -> bool:
        """Do the same for a cached key; True if the permission does not depend on the rest of the request."""
        record = cached.record
        question = self.question(action, record.arn, cached, shown=shown)
        try:
            is_general = self.core.authorise(question)
        finally:
            self.resources.append(record.arn)
        if self.ended_grant_token:
            raise InvalidGrantTokenException(INVALID_GRANT_TOKEN)
        if record.manager is _AWS:
            managed.check_use(self.operation, record, self.caller)
        kinds.ADMIT[self.operation](self.operation, record, self.now)
        return is_general

    def _admitted_before(self, what: AdmissionKey) -> tuple[CachedKey, Permit] | None:
        """Return the key with a permit if the same was admitted since the last change.

        If statements with conditions decide, they decide about this request. This saves 5 µs for each request.
        """
        self.admissions = self.core.cache.look().admissions
        admission = self.admissions.get(what)
        if admission is None or self.ended_grant_token:
            return None
        key, self.identity = admission.key, admission.identity
        record = key.record
        if admission.is_general:
            self.resources.append(record.arn)
        else:
            self._authorise_and_check(key, admission.action, admission.shown)
        return key, Permit(self.operation, key.covers, record.version, time.monotonic() + LIFETIME_SECONDS)

    def _admit_named(
        self, what: AdmissionKey, key_id: str, *, aliases: bool, action: str | None
    ) -> tuple[CachedKey, Permit]:
        account = self.core.installation.account
        ref = parse_key_ref(key_id, account=account, region=self.region, aliases=aliases)
        action = action or f"kms:{self.operation}"
        shown = alias_arn(account, ref.region, ref.name) if ref.kind is _ALIAS else ""
        cached = self._look_up(ref)
        if cached is None and managed.has_key(ref.name, self.core.services):
            cached = self._first_use(ref, action, shown)
        if cached is None:
            # The key of an unknown alias is unknown, and the alias's own ARN as a resource means the alias only.
            arn = key_arn(account, ref.region, "*" if ref.kind is _ALIAS else ref.name)
            self.authorise_unknown(action, arn, shown)
            raise unknown(ref, account)
        return self._admit(what, cached, action, shown)

    def _admit(self, what: AdmissionKey, cached: CachedKey, action: str, shown: str) -> tuple[CachedKey, Permit]:
        record = cached.record
        if record.origin is _EXTERNAL and states.unwritten_lapses(record, self.now):
            lapses.write(self.core, record.key_id, record.region, self.now)
            cached = self.core.cache.key(record.region, record.key_id) or cached
            record = cached.record
        is_general = self._authorise_and_check(cached, action, shown)
        if self.identity is not None and record.origin is not _EXTERNAL:  # whose material may expire
            if len(self.admissions) >= MAX_ADMISSIONS:
                self.admissions.clear()
            # The keys of services depend on the caller's address.
            is_general = is_general and record.manager is not _AWS
            self.admissions[what] = Admission(cached, self.identity, is_general, action, shown)
        return cached, self._permit(cached.covers, record.version, self._seconds_left(record))

    def _look_up(self, ref: KeyRef) -> CachedKey | None:
        cache = self.core.cache
        if ref.kind is not _ALIAS:
            return self._key_and_caller(ref.region, ref.name)
        alias = cache.alias(ref.region, ref.name)
        return None if alias is None else self._key_and_caller(ref.region, alias.target_key_id)

    def _first_use(self, ref: KeyRef, action: str, shown: str) -> CachedKey | None:
        """Create the key of a configured service at its first use, if the caller may use it."""
        draft = service_keys.draft(self.core, ref.region, ref.name)
        self.core.authorise(self.question(action, draft.arn, self.core.cache.of(draft), about_key=True, shown=shown))
        service_keys.make(self.core, draft, ref.name)
        return self._look_up(ref)

    def authorise_unknown(self, action: str, arn: str, shown: str = "") -> None:
        """Refuse callers who could not use such a key if it existed, so that they do not learn that it does not."""
        self.core.authorise(self.question(action, arn, about_key=True, shown=shown))

    def _seconds_left(self, record: KeyRecord) -> float:
        """Return the lifetime of a permit for the key, which ends with its imported material."""
        if record.origin is not _EXTERNAL:
            return LIFETIME_SECONDS
        expiry = states.expires_at(record)
        return LIFETIME_SECONDS if expiry is None else min(LIFETIME_SECONDS, (expiry - self.now).total_seconds())

    def _permit(self, covers: frozenset[bytes], version: int, seconds: float) -> Permit:
        return Permit(self.operation, covers, version, time.monotonic() + seconds)


def repeated(procedure: Procedure[Request, Response]) -> Procedure[Request, Response]:
    """Decorate a procedure with one write transaction, which changes no token: it is run again if that is aborted.

    A database server ends transactions that wait for each other, or cannot be put in an order. Work on the token is
    never repeated so: its intent is a transaction of its own.
    """

    @wraps(procedure)
    def run(call: Call, request: Request) -> Response:
        recorded = len(call.resources)

        def act() -> Response:
            del call.resources[recorded:]
            return procedure(call, request)

        return call.core.store.meta.again_if_aborted(act)

    return run


def run_audited(
    core: Core,
    operation: Operation,
    procedure: Procedure[Request, Response],
    request: Request,
    caller: Caller,
) -> Response:
    """Run a request through the pipeline, and write its audit record, whether it succeeds or fails.

    Threads with quick operations go one after another (runtime/gil_queue.py).
    """
    turns = core.audit.turns
    if turns.is_disabled or operation not in QUICK:
        return _run(core, operation, procedure, request, caller)
    try:
        turns.enter()
        return _run(core, operation, procedure, request, caller)
    finally:
        turns.leave()


def _run(
    core: Core,
    operation: Operation,
    procedure: Procedure[Request, Response],
    request: Request,
    caller: Caller,
) -> Response:
    call = Call(core, operation, caller, request)
    core.audit.begin(call, request)
    try:
        validate(request)
        if caller.region not in core.installation.regions:
            regions.refuse(caller.region, core.installation.regions, ValidationException)
        tokens = getattr(request, "grant_tokens", None)
        if tokens:
            call.ended_grant_token = grant_tokens.check(core, caller, tokens)
        response = procedure(call, request)
    except HsmKmsError as exc:
        core.write_audit_record(call, request, None, exc)
        if isinstance(exc, ObjectLostError) and call.resources:
            raise ObjectLostError(f"{' and '.join(call.resources)}: {exc}") from exc
        raise
    except Exception as exc:
        # A bug in hsmkms: the exception is re-raised unchanged, and the audit record shows that there was a request.
        core.write_audit_record(call, request, None, KMSInternalException(type(exc).__name__))
        raise
    core.write_audit_record(call, request, response if isinstance(response, Struct) else None, None)
    return response
