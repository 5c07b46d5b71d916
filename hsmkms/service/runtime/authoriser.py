"""Authorise requests: collect the policies and grants for a decision, decide, and refuse."""

from hsmkms.model.enums import KeyManager
from hsmkms.rules.iam import access, managed, policies
from hsmkms.rules.iam.access import BY_POLICY, RESOURCE_BASED, Decision
from hsmkms.rules.iam.question import Question
from hsmkms.service.runtime.record_cache import CachedKey, RecordCache


class PolicyAuthoriser:
    """Decides by the present policies and grants."""

    def __init__(self, cache: RecordCache, account: str) -> None:
        self._cache = cache
        self._account = account
        self._unknown = policies.read_key_policy(policies.default_policy(account), account)

    def __call__(self, question: Question) -> bool:
        """Raise AccessDeniedException unless the request is allowed.

        Return True if so is every request of the caller for the key, until a change: if no statement on the action has
        conditions. A grant asks for the encryption context.
        """
        decision = self.decide(question)
        if decision.allowed:
            return decision.kind in BY_POLICY and self._is_general(question)
        key = question.key
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

    def _is_general(self, question: Question) -> bool:
        key = question.key
        if not isinstance(key, CachedKey) or question.retired is not None:
            return False
        own = self._cache.identity(question.caller.principal, self._account, just_looked=True).own
        return not access.asks_more(question.action, key.policy(), own)
