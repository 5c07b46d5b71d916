"""The stage that authorises: gathers what decides about a question, and refuses."""

from hsmkms.model.enums import KeyManager
from hsmkms.rules import access, managed, policies
from hsmkms.rules.access import RESOURCE_BASED, Decision
from hsmkms.rules.question import Question
from hsmkms.service.cache import CachedKey, RecordCache


class Access:
    """Answers questions with the policies and grants that there are now."""

    def __init__(self, cache: RecordCache, account: str) -> None:
        self._cache = cache
        self._account = account
        self._unknown = policies.read_key_policy(policies.default_policy(account), account)

    def __call__(self, question: Question) -> None:
        """Raise AccessDeniedException unless the caller may."""
        decision = self.decide(question)
        if decision.allowed:
            return
        key = question.key
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
