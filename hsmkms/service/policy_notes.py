"""Notes about policies: what in them no caller and no request here ever fits."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.model.ids import key_arn
from hsmkms.rules import policies as rules
from hsmkms.rules.access import KEY_POLICY, OwnPolicy
from hsmkms.rules.policy_documents import Policy
from hsmkms.service.core import Core
from hsmkms.store import identities


class PolicyNote(Struct, frozen=True, kw_only=True):
    """One sentence about one policy. ``policy``: which it is."""

    policy: str
    sentence: str


class PolicyNotes:
    """Notes about policies of an open installation. Get it as ``kms.operator.notes``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def of_key_policy(self, text: str) -> tuple[str, ...]:
        """Return the notes about a key policy that was put. MalformedPolicyDocumentException."""
        return rules.stored_key_policy(text, self._core.installation.account).notes

    def of_own_policy(self, text: str) -> tuple[str, ...]:
        """Return the notes about a policy of a user or group that was put. MalformedPolicyDocumentException."""
        return rules.stored_own_policy(text, self._core.installation.account).notes

    def every(self) -> list[PolicyNote]:
        """Return the notes about all policies that are stored; of several keys with one policy, about the first."""
        with self._core.store.reading() as conn:
            keys = identities.key_policies(conn)
            own = identities.every_own_policy(conn)
        account = self._core.installation.account
        texts = {text: key_arn(account, region, key_id) for key_id, region, text in reversed(keys)}
        found = [
            PolicyNote(policy=f"key policy of {arn}", sentence=each)
            for text, arn in reversed(texts.items())
            for each in _readable(self.of_key_policy, text)
        ]
        return found + [
            PolicyNote(policy=name, sentence=each) for name, text in own for each in _readable(self.of_own_policy, text)
        ]


def about_action(action: str, key_policy: Policy | None, own: tuple[OwnPolicy, ...]) -> list[str]:
    """Return the notes about those statements of the policies that name an action (``kms:Encrypt``)."""
    named = [
        *([(KEY_POLICY, key_policy)] if key_policy is not None else []),
        *((each.name, each.policy) for each in own),
    ]
    return list(dict.fromkeys(f"{name}: {note}" for name, policy in named for note in _of_action(policy, action)))


def _of_action(policy: Policy, action: str) -> Iterator[str]:
    for statement in (*policy.denies.get(action, ()), *policy.allows.get(action, ())):
        yield from statement.notes


def _readable(notes_of: Callable[[str], tuple[str, ...]], text: str) -> tuple[str, ...]:
    """The notes; none where the policy cannot be read, of which the log has told."""
    try:
        return notes_of(text)
    except MalformedPolicyDocumentException:
        return ()
