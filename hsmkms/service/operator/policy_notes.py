"""Find parts of policies and grants that no caller or request here can ever match, and describe them in notes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from msgspec import Struct

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.model.grants import CreateGrantRequest
from hsmkms.model.ids import ALIAS_PREFIX, PARTITION, key_arn
from hsmkms.rules.iam import policies as rules
from hsmkms.rules.iam.access import KEY_POLICY, OwnPolicy
from hsmkms.rules.iam.documents import Policy
from hsmkms.rules.iam.policy_json import decode, statements
from hsmkms.rules.iam.principals import parse, parse_arn
from hsmkms.service.operations.policies import is_unknown
from hsmkms.service.runtime.core import Core
from hsmkms.store import identities, keys
from hsmkms.store.engine import Connection

_ARN_PARTS: Final = 6
NEW_USER: Final = "a user created later under that name is a new one, to whom only a Deny applies"


class PolicyNote(Struct, frozen=True, kw_only=True):
    """One sentence about one policy; ``policy`` names it."""

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

    def about_resources(self, text: str) -> list[str]:
        """Return the notes about a new policy of a user or group that names keys which are not there, or aliases."""
        with self._core.store.reading() as conn:
            return [each for arn in _named_resources(text) if (each := self._about_resource(conn, arn)) is not None]

    def _about_resource(self, conn: Connection, arn: str) -> str | None:
        """Return a note about a whole ARN, or None; one with wildcards or variables may match any key."""
        parts = arn.split(":", 5)
        if parts[:3] != ["arn", PARTITION, "kms"] or len(parts) != _ARN_PARTS or set(arn) & set("*?$"):
            return None
        region, account, name = parts[3:]
        if name.startswith(ALIAS_PREFIX):
            return (
                f"The Resource {arn} is an alias: only operations on aliases match it. Those with a key match the "
                f"key's ARN, which `hsmkms describe-key --key-id {name}` shows."
            )
        key_id = name.removeprefix("key/")
        if account != self._core.installation.account or keys.fetch(conn, region, key_id) is None:
            return f"There is no key with the ARN of the Resource {arn}: no request matches it."
        return None

    def of_grant(self, request: CreateGrantRequest) -> list[str]:
        """Return the notes about a new grant: principals that cannot call here, and constraints that never match."""
        account = self._core.installation.account
        users = (request.grantee_principal, request.retiring_principal)
        principals = [parse_arn(each) for each in users if each is not None]
        strangers = [each.text for each in principals if each is not None and not each.can_call(account)]
        strangers += [
            each for each in (request.grantee_service_principal, request.retiring_service_principal) if each is not None
        ]
        notes = [f"Nobody calls here as {each}." for each in dict.fromkeys(strangers)]
        if request.constraints is not None and request.constraints.source_arn is not None:
            notes.append("No request here comes on behalf of a SourceArn: the grant allows nothing.")
        return notes

    def every(self) -> list[PolicyNote]:
        """Return the notes about all stored policies; if several keys have the same policy, only for the first."""
        with self._core.store.reading() as conn:
            of_keys = [
                PolicyNote(policy=f"key policy of {arn}", sentence=each)
                for text, arn in self._key_policies(conn).items()
                for each in _readable(partial(self._of_key_policy, conn), text)
            ]
            own = identities.every_own_policy(conn)
        return of_keys + [
            PolicyNote(policy=name, sentence=each) for name, text in own for each in _readable(self.of_own_policy, text)
        ]

    def _key_policies(self, conn: Connection) -> dict[str, str]:
        """Return the distinct key policies, each with the ARN of the first key that has it."""
        account, arns = self._core.installation.account, dict[str, str]()
        for key_id, region, text in identities.key_policies(conn):
            arns.setdefault(text, key_arn(account, region, key_id))
        return arns

    def _of_key_policy(self, conn: Connection, text: str) -> list[str]:
        policy = rules.stored_key_policy(text, self._core.installation.account)
        named = ((each, parse(each)) for each in sorted(policy.users))
        unknown = [
            each for each, principal in named if principal is not None and is_unknown(self._core, conn, principal)
        ]
        return [
            *policy.notes,
            *(f"There is no {each}: {NEW_USER}." for each in unknown),
        ]


def about_action(action: str, key_policy: Policy | None, own: tuple[OwnPolicy, ...]) -> list[str]:
    """Return the notes about the statements of the policies that apply to an action (``kms:Encrypt``)."""
    named = [
        *([(KEY_POLICY, key_policy)] if key_policy is not None else []),
        *((each.name, each.policy) for each in own),
    ]
    return list(dict.fromkeys(f"{name}: {note}" for name, policy in named for note in _of_action(policy, action)))


def _of_action(policy: Policy, action: str) -> Iterator[str]:
    for statement in (*policy.denies.get(action, ()), *policy.allows.get(action, ())):
        yield from statement.notes


def _named_resources(text: str) -> Iterator[str]:
    """Yield the entries of all Resource elements of a policy that was accepted, without repetitions."""
    given = [each.get("Resource", []) for each in statements(decode(text))]
    yield from dict.fromkeys(arn for each in given for arn in (each if isinstance(each, list) else [each]))


def _readable(notes_of: Callable[[str], list[str]], text: str) -> list[str]:
    """Return the notes about a policy; none if it cannot be read, which is logged elsewhere."""
    try:
        return notes_of(text)
    except MalformedPolicyDocumentException:
        return []
