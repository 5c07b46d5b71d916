"""Authorise requests: collect the policies and grants for a decision, decide, and refuse.

Most callers use most keys under statements without conditions, so that every request of a caller for a key has the same
decision. Such permissions are cached for the key and caller objects that the record cache returned: after any change it
returns new objects, and the decision is made again. This saves 4 µs per request.
"""

from typing import Final

from hsmkms.model.enums import KeyManager
from hsmkms.rules.iam import access, managed, policies
from hsmkms.rules.iam.access import BY_POLICY, RESOURCE_BASED, Decision
from hsmkms.rules.iam.question import Identity, Question
from hsmkms.service.runtime.record_cache import CachedKey, RecordCache

MAX_KEPT: Final = 20_000
"""Cache limit in decisions; when it is reached the cache is cleared."""


class Access:
    """Decides by the present policies and grants."""

    def __init__(self, cache: RecordCache, account: str) -> None:
        self._cache = cache
        self._account = account
        self._unknown = policies.read_key_policy(policies.default_policy(account), account)
        self._allowed: dict[tuple[str, str, str], tuple[object, Identity]] = {}

    def __call__(self, question: Question) -> None:
        """Raise AccessDeniedException unless the request is allowed."""
        key, what = question.key, (question.action, question.identity.arn, question.resource)
        known_key, known_caller = self._allowed.get(what, (None, None))
        if known_key is key and known_caller is question.identity and question.retired is None:
            return
        decision = self.decide(question)
        if decision.allowed:
            if decision.kind in BY_POLICY:  # a grant asks for the encryption context
                self._keep(question, what)
            return
        if key is not None and key.record.manager is KeyManager.AWS and decision.kind == RESOURCE_BASED:
            managed.check_use(question.operation, key.record, question.caller)
        raise access.refusal(question, decision)

    def decide(self, question: Question) -> Decision:
        """Return the decision with its reason."""
        # No look at the change log: the question was built from a caller who has just been read.
        own = self._cache.identity(question.caller.principal, self._account, just_looked=True).own
        if not question.about_key:
            return access.decide(question, None, own)
        key = question.key
        if not isinstance(key, CachedKey):
            # Decided as for a key that was just created, so that an outsider does not learn whether the key exists.
            return access.decide(question, self._unknown, own)
        if question.retired is not None:
            return access.decide_retiring(question, key.policy(), own, question.retired)
        return access.decide(question, key.policy(), own, key.grants)

    def _keep(self, question: Question, what: tuple[str, str, str]) -> None:
        """Cache a permission that depends on the caller and the key only."""
        key = question.key
        if not isinstance(key, CachedKey) or question.retired is not None:
            return
        caller = self._cache.identity(question.caller.principal, self._account, just_looked=True)
        if caller.identity is not question.identity:
            return  # the caller has changed, and another thread has read the change
        if not access.asks_more(question.action, key.policy(), caller.own):
            if len(self._allowed) >= MAX_KEPT:
                self._allowed.clear()
            self._allowed[what] = (key, question.identity)
