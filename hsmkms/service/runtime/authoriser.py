"""Authorise requests: collect the policies and grants for a decision, decide, and refuse."""

from typing import Final

from hsmkms.model.enums import KeyManager
from hsmkms.rules.iam import access, managed, policies
from hsmkms.rules.iam.access import BY_POLICY, RESOURCE_BASED, Decision, Outcome, OwnPolicy
from hsmkms.rules.iam.question import Question
from hsmkms.service.runtime.record_cache import CachedKey, RecordCache

_ALLOWED: Final = Outcome.ALLOWED


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
        own = self._own_policies(question)
        decision = self._decide(question, own)
        if decision.outcome is _ALLOWED:
            return decision.kind in BY_POLICY and _is_general(question, own)
        key = question.key
        if key is not None and key.record.manager is KeyManager.AWS and decision.kind == RESOURCE_BASED:
            managed.check_use(question.operation, key.record, question.caller)
        raise access.refusal(question, decision)

    def decide(self, question: Question) -> Decision:
        """Return the decision with its reason."""
        return self._decide(question, self._own_policies(question))

    def _own_policies(self, question: Question) -> tuple[OwnPolicy, ...]:
        # No look at the change log: the question was built from a caller who has just been read.
        return self._cache.identity(question.caller.principal, self._account, just_looked=True).own

    def _decide(self, question: Question, own: tuple[OwnPolicy, ...]) -> Decision:
        if not question.about_key:
            return access.decide(question, None, own)
        key = question.key
        if not isinstance(key, CachedKey):
            # Decided as for a key that was just created, so that an outsider does not learn whether the key exists.
            return access.decide(question, self._unknown, own)
        if question.retired is not None:
            return access.decide_retiring(question, key.policy(), own, question.retired)
        return access.decide(question, key.policy(), own, key.grants)


def _is_general(question: Question, own: tuple[OwnPolicy, ...]) -> bool:
    """Return True if the policies' decision holds for every request of the caller for the key."""
    key = question.key
    if not isinstance(key, CachedKey) or question.retired is not None:
        return False
    return not access.asks_more(question.action, key.policy(), own)
