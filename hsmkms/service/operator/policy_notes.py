"""Notes about policies: what in them no caller and no request here ever fits."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from msgspec import Struct

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.model.ids import key_arn
from hsmkms.rules.iam import policies as rules
from hsmkms.rules.iam.access import KEY_POLICY, OwnPolicy
from hsmkms.rules.iam.documents import Policy
from hsmkms.rules.iam.principals import parse, parse_arn
from hsmkms.service.operations.policies import is_unknown
from hsmkms.service.runtime.core import Core
from hsmkms.store import identities
from hsmkms.store.engine import Connection

NEW_USER: Final = "who is made under that name is somebody else, whom a Deny alone means"


class PolicyNote(Struct, frozen=True, kw_only=True):
    """One sentence about one policy. ``policy``: which it is."""

    policy: str
    sentence: str


class PolicyNotes:
    """Notes about policies of an open installation. Get it as ``kms.operator.notes``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def of_key_policy(self, text: str) -> list[str]:
        """Return the notes about a key policy that was put. MalformedPolicyDocumentException."""
        with self._core.store.reading() as conn:
            return self._of_key_policy(conn, text)

    def of_own_policy(self, text: str) -> list[str]:
        """Return the notes about a policy of a user or group that was put. MalformedPolicyDocumentException."""
        return list(rules.stored_own_policy(text, self._core.installation.account).notes)

    def of_grant(self, request: CreateGrantRequest) -> list[str]:
        """Return the notes about a grant that was made: who of those it names cannot call, and what fits no request."""
        account = self._core.installation.account
        users = (request.grantee_principal, request.retiring_principal)
        found = [parse_arn(each) for each in users if each is not None]
        strangers = [each.text for each in found if each is not None and not each.can_call(account)]
        strangers += [
            each for each in (request.grantee_service_principal, request.retiring_service_principal) if each is not None
        ]
        notes = [f"Nobody calls here as {each}." for each in dict.fromkeys(strangers)]
        if request.constraints is not None and request.constraints.source_arn is not None:
            notes.append("No request here comes on behalf of a SourceArn: the grant allows nothing.")
        return notes

    def every(self) -> list[PolicyNote]:
        """Return the notes about all policies that are stored; of several keys with one policy, about the first."""
        with self._core.store.reading() as conn:
            found = [
                PolicyNote(policy=f"key policy of {arn}", sentence=each)
                for text, arn in self._key_policies(conn).items()
                for each in _readable(partial(self._of_key_policy, conn), text)
            ]
            own = identities.every_own_policy(conn)
        return found + [
            PolicyNote(policy=name, sentence=each) for name, text in own for each in _readable(self.of_own_policy, text)
        ]

    def _key_policies(self, conn: Connection) -> dict[str, str]:
        """Each policy of a key by its text, with the ARN of the first key that has it."""
        account, found = self._core.installation.account, dict[str, str]()
        for key_id, region, text in identities.key_policies(conn):
            found.setdefault(text, key_arn(account, region, key_id))
        return found

    def _of_key_policy(self, conn: Connection, text: str) -> list[str]:
        policy = rules.stored_key_policy(text, self._core.installation.account)
        named = ((each, parse(each)) for each in sorted(policy.users))
        unknown = [each for each, found in named if found is not None and is_unknown(self._core, conn, found)]
        return [
            *policy.notes,
            *(f"There is no {each}: {NEW_USER}." for each in unknown),
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


def _readable(notes_of: Callable[[str], list[str]], text: str) -> list[str]:
    """The notes; none where the policy cannot be read, of which the log has told."""
    try:
        return notes_of(text)
    except MalformedPolicyDocumentException:
        return []
