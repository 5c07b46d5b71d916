"""Manage policies of users and groups, groups, and tags of users for the operator, effective at the next call."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Final

from msgspec import Struct

from hsmkms.errors import (
    AlreadyExistsException,
    LimitExceededException,
    NotFoundException,
    ValidationException,
)
from hsmkms.model.ids import group_arn, parse_key_ref, root_arn, unknown, user_arn
from hsmkms.rules import tags
from hsmkms.rules.iam import policies as rules
from hsmkms.rules.iam.policy_json import replace_principal, without_mark
from hsmkms.service.operator.recorded import recorded, recorded_in_iam
from hsmkms.service.runtime.core import Core
from hsmkms.store import grants, identities, keys
from hsmkms.store.engine import Connection
from hsmkms.store.identities import IdentityRow, Owner

MAX_POLICIES: Final = 10
"""The limit for one user or group."""

_match_name: Final = re.compile(r"[A-Za-z0-9_+=,.@-]{1,128}").fullmatch


class UserFacts(Struct, frozen=True, kw_only=True):
    """A user by name, path and ARN, with tags, and the names of policies and groups."""

    user_name: str
    path: str
    user_id: str
    arn: str
    create_date: datetime
    tags: dict[str, str]
    policies: list[str]
    groups: list[str]


class Group(Struct, frozen=True, kw_only=True):
    """A group by name and ARN, with its members."""

    group_name: str
    arn: str
    create_date: datetime
    users: list[str]


class Identities:
    """Permissions of users and groups of an open installation. Get it as ``kms.operator.identities``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # -- users --------------------------------------------------------------------------------------------------

    def user(self, name: str) -> UserFacts:
        """Return everything about a user except their access keys. NotFoundException."""
        with self._core.store.reading() as conn:
            row = self._user(conn, name)
            groups = [each.name for each in identities.groups(conn, name)]
        return UserFacts(
            user_name=row.name,
            path=row.path,
            user_id=row.unique_id,
            arn=self._arn(row),
            create_date=row.created_at,
            tags=dict(row.tags),
            policies=list(row.policies),
            groups=groups,
        )

    def name_of(self, principal: str) -> str | None:
        """Return the name of the user that a principal means, by name or whole ARN; None for the account's root.

        NotFoundException if there is no such user.
        """
        if principal in ("root", root_arn(self._core.installation.account)):
            return None
        name = principal.rpartition("/")[2] if principal.startswith("arn:") else principal
        with self._core.store.reading() as conn:
            arn = self._arn(self._user(conn, name))
        if principal not in (name, arn):
            raise NotFoundException(f"{principal} is no user here: the user of that name is {arn}.")
        return name

    @recorded_in_iam("TagUser", name="userName")
    def tag_user(self, name: str, new: Sequence[tuple[str, str]]) -> None:
        """Add tags of a user, or replace their values: ``aws:PrincipalTag/KEY`` of conditions."""
        with self._core.store.atomic() as tx:
            tags.merge(self._user(tx, name).tags, new)
            identities.put_tags(tx, name, dict(new))

    @recorded_in_iam("UntagUser", name="userName")
    def untag_user(self, name: str, tag_keys: Sequence[str]) -> None:
        """Remove tags of a user; a missing one is no error."""
        with self._core.store.atomic() as tx:
            self._user(tx, name)
            identities.remove_tags(tx, name, tag_keys)

    # -- policies -----------------------------------------------------------------------------------------------

    @recorded_in_iam("PutUserPolicy", name="userName", policy_name="policyName", document="policyDocument")
    def put_user_policy(self, name: str, policy_name: str, document: str) -> None:
        """Attach a policy to a user, or replace the one of that name. MalformedPolicyDocumentException."""
        with self._core.store.atomic() as tx:
            self._user(tx, name)
            self._put(tx, Owner.USER, name, policy_name, document)

    @recorded_in_iam("PutGroupPolicy", name="groupName", policy_name="policyName", document="policyDocument")
    def put_group_policy(self, name: str, policy_name: str, document: str) -> None:
        """Attach a policy to a group; it applies to all its members."""
        with self._core.store.atomic() as tx:
            _need_group(tx, name)
            self._put(tx, Owner.GROUP, name, policy_name, document)

    @recorded_in_iam("ListUserPolicies", name="userName")
    def user_policies(self, name: str) -> Mapping[str, str]:
        """Return the documents of a user's own policies, by name."""
        with self._core.store.reading() as conn:
            return self._user(conn, name).policies

    @recorded_in_iam("ListGroupPolicies", name="groupName")
    def group_policies(self, name: str) -> Mapping[str, str]:
        """Return the documents of a group's policies, by name."""
        with self._core.store.reading() as conn:
            _need_group(conn, name)
            return identities.policies(conn, Owner.GROUP, name)

    @recorded_in_iam("DeleteUserPolicy", name="userName", policy_name="policyName")
    def delete_user_policy(self, name: str, policy_name: str) -> None:
        """Delete a policy of a user."""
        with self._core.store.atomic() as tx:
            self._user(tx, name)
            if not identities.delete_policy(tx, Owner.USER, name, policy_name):
                raise no_policy(policy_name, f"user {name}")

    @recorded_in_iam("DeleteGroupPolicy", name="groupName", policy_name="policyName")
    def delete_group_policy(self, name: str, policy_name: str) -> None:
        """Delete a policy of a group."""
        with self._core.store.atomic() as tx:
            _need_group(tx, name)
            if not identities.delete_policy(tx, Owner.GROUP, name, policy_name):
                raise no_policy(policy_name, f"group {name}")

    # -- groups -------------------------------------------------------------------------------------------------

    @recorded_in_iam("CreateGroup", name="groupName")
    def create_group(self, name: str) -> Group:
        """Create a group. AlreadyExistsException."""
        _check_name(name, "group")
        now = self._core.clock()
        with self._core.store.atomic() as tx:
            if not identities.insert_group(tx, name, now):
                raise AlreadyExistsException(f"Group with name {name} already exists.")
        return Group(group_name=name, arn=self._group_arn(name), create_date=now, users=[])

    @recorded_in_iam("DeleteGroup", name="groupName")
    def delete_group(self, name: str) -> None:
        """Delete a group and its policies; its members stay users."""
        with self._core.store.atomic() as tx:
            if not identities.delete_group(tx, name):
                raise _no_group(name)

    @recorded_in_iam("ListGroups", user_name="userName")
    def list_groups(self, user_name: str | None = None) -> list[Group]:
        """Return all groups, or those of a user."""
        with self._core.store.reading() as conn:
            if user_name is not None:
                self._user(conn, user_name)
            rows = identities.groups(conn, user_name)
        return [
            Group(
                group_name=each.name,
                arn=self._group_arn(each.name),
                create_date=each.created_at,
                users=list(each.members),
            )
            for each in rows
        ]

    @recorded_in_iam("AddUserToGroup", group_name="groupName", user_name="userName")
    def add_user_to_group(self, group_name: str, user_name: str) -> None:
        """Add a user to a group; if they are a member already, that is no error."""
        with self._core.store.atomic() as tx:
            _need_group(tx, group_name)
            self._user(tx, user_name)
            identities.add_member(tx, group_name, user_name)

    @recorded_in_iam("RemoveUserFromGroup", group_name="groupName", user_name="userName")
    def remove_user_from_group(self, group_name: str, user_name: str) -> None:
        """Remove a user from a group. NotFoundException if they are no member."""
        with self._core.store.atomic() as tx:
            _need_group(tx, group_name)
            self._user(tx, user_name)
            if not identities.remove_member(tx, group_name, user_name):
                raise NotFoundException(f"The user {user_name} is not in the group {group_name}.")

    # -- deleted users ------------------------------------------------------------------------------------------

    def forget_user(self, tx: Connection, name: str) -> None:
        """Remove a user's permissions, in the transaction that deletes them."""
        row = self._user(tx, name)
        self.replace_arn(tx, self._arn(row), row.unique_id)
        identities.delete_belongings(tx, name)

    def replace_arn(self, tx: Connection, arn: str, unique_id: str, *, denied: bool = True) -> None:
        """Replace a user's ARN by a unique id in key policies and grants, as AWS does.

        A new user of the same ARN has another unique id. ``denied``: also replace it in Deny statements.
        """
        replaced = cache(lambda text: replace_principal(text, arn, unique_id, denied=denied))  # most have the same one
        for key_id, region, text in identities.key_policies(tx):
            changed = replaced(text)
            if changed is not None:
                keys.rewrite_policy(tx, key_id, region, changed)
        grants.rename_principal(tx, arn, unique_id)

    # -- keys whose policy has locked out everyone --------------------------------------------------------------

    @recorded("ResetKeyPolicy", key_id="keyId", region="region")
    def reset_key_policy(self, key_id: str, region: str | None = None) -> None:
        """Replace a key's policy by the default one, whatever it says: the way out of a lock-out."""
        installation = self._core.installation
        ref = parse_key_ref(
            key_id, account=installation.account, region=region or installation.default_region, aliases=False
        )
        with self._core.store.atomic() as tx:
            record = keys.fetch(tx, ref.region, ref.name)
            if record is None:
                raise unknown(ref, installation.account)
            keys.set_policy(tx, ref.name, ref.region, rules.default_policy(installation.account), record.version)

    def _put(self, tx: Connection, kind: Owner, owner: str, policy_name: str, document: str) -> None:
        _check_name(policy_name, "policy")
        document = without_mark(document)
        rules.read_own_policy(document, self._core.installation.account)
        present = identities.policies(tx, kind, owner)
        if policy_name not in present and len(present) >= MAX_POLICIES:
            raise LimitExceededException(f"There are {MAX_POLICIES} policies already: combine some of them.")
        identities.put_policy(tx, kind, owner, policy_name, document)

    def _user(self, conn: Connection, name: str) -> IdentityRow:
        row = identities.fetch(conn, name)
        if row is None:
            raise NotFoundException(f"The user with name {name} cannot be found: list-users shows all users.")
        return row

    def _arn(self, row: IdentityRow) -> str:
        return user_arn(self._core.installation.account, row.name, row.path)

    def _group_arn(self, name: str) -> str:
        return group_arn(self._core.installation.account, name)


def no_policy(policy_name: str, owner: str) -> NotFoundException:
    """Make the error for a policy that a user or group does not have."""
    return NotFoundException(f"The {owner} has no policy with name {policy_name}.")


def _need_group(conn: Connection, name: str) -> None:
    if not identities.group_exists(conn, name):
        raise _no_group(name)


def _no_group(name: str) -> NotFoundException:
    return NotFoundException(f"The group with name {name} cannot be found: list-groups shows all groups.")


def _check_name(name: str, what: str) -> None:
    if not _match_name(name):
        raise ValidationException(f"{name!r} is no {what} name: 1 to 128 letters, digits or any of _+=,.@-")
