"""The stage that authorises: gathers what decides about a question, and refuses.

Most callers use most keys under statements without conditions, and then every request of a caller for a key has the
same answer. So what was allowed in this way is kept, for the very key and caller as the cache has read them: whatever
changes one of them makes it read them anew, and then it is decided anew. This saves 4 µs a request.
"""

from typing import Final

from hsmkms.model.enums import KeyManager
from hsmkms.rules.iam import access, managed, policies
from hsmkms.rules.iam.access import BY_POLICY, RESOURCE_BASED, Decision
from hsmkms.rules.iam.question import Identity, Question
from hsmkms.service.runtime.record_cache import CachedKey, RecordCache

MAX_KEPT: Final = 20_000
"""Answers that are kept; beyond that all are dropped."""


class Access:
    """Answers questions with the policies and grants that there are now."""

    def __init__(self, cache: RecordCache, account: str) -> None:
        self._cache = cache
        self._account = account
        self._unknown = policies.read_key_policy(policies.default_policy(account), account)
        self._allowed: dict[tuple[str, str, str], tuple[object, Identity]] = {}

    def __call__(self, question: Question) -> None:
        """Raise AccessDeniedException unless the caller may."""
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
        """The decision, and what gave it."""
        # Whoever asked has just looked for who the caller is.
        own = self._cache.identity(question.caller.principal, self._account, just_looked=True).own
        if not question.about_key:
            return access.decide(question, None, own)
        key = question.key
        if not isinstance(key, CachedKey):
            # Nothing tells an outsider whether there is such a key: it is judged as one that was just made.
            return access.decide(question, self._unknown, own)
        if question.retired is not None:
            return access.decide_retiring(question, key.policy(), own, question.retired)
        return access.decide(question, key.policy(), own, key.grants)

    def _keep(self, question: Question, what: tuple[str, str, str]) -> None:
        """Keep that a question was allowed, if all that can be asked about it is who calls and for which key."""
        key = question.key
        if not isinstance(key, CachedKey) or question.retired is not None:
            return
        caller = self._cache.identity(question.caller.principal, self._account, just_looked=True)
        if caller.identity is not question.identity:
            return  # another thread has read him anew meanwhile, since he was changed
        if not access.asks_more(question.action, key.policy(), caller.own):
            if len(self._allowed) >= MAX_KEPT:
                self._allowed.clear()
            self._allowed[what] = (key, question.identity)
