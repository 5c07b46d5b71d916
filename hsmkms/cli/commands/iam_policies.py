"""Commands about users' and groups' policies, with the names and answers of `aws iam`."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec import Struct

from hsmkms.cli.api import values
from hsmkms.cli.options import Common, note, with_common
from hsmkms.errors import NotFoundException

if TYPE_CHECKING:
    from hsmkms.service.operator.identities import Identities

PANEL: Final = "Users"

UserOption = Annotated[str, typer.Option("--user-name", help="Name of the user.")]
SomeUserOption = Annotated[
    str | None, typer.Option("--user-name", help="Only groups of this user.", show_default=False)
]
GroupOption = Annotated[str, typer.Option("--group-name", help="Name of the group.")]
PolicyOption = Annotated[str, typer.Option("--policy-name", help="Name of the policy.")]
DocumentOption = Annotated[str, typer.Option("--policy-document", help="IAM policy: JSON, or file://FILE.")]
TagsOption = Annotated[
    list[str], typer.Option("--tags", metavar="LIST", help="Key=...,Value=... for each tag, or JSON.")
]
TagKeysOption = Annotated[list[str], typer.Option("--tag-keys", metavar="LIST", help="Keys of the tags.")]


class _Owner(Struct, frozen=True):
    """A kind of policy owner: its word, the member that names it in an answer, and the service's methods for it."""

    word: str
    member: str
    put: Callable[["Identities"], Callable[[str, str, str], None]]
    policies: Callable[["Identities"], Callable[[str], Mapping[str, str]]]
    delete: Callable[["Identities"], Callable[[str, str], None]]


_USER: Final = _Owner(
    "user",
    "UserName",
    put=lambda of: of.put_user_policy,
    policies=lambda of: of.user_policies,
    delete=lambda of: of.delete_user_policy,
)
_GROUP: Final = _Owner(
    "group",
    "GroupName",
    put=lambda of: of.put_group_policy,
    policies=lambda of: of.group_policies,
    delete=lambda of: of.delete_group_policy,
)


class UserTag(Struct, frozen=True, rename="pascal"):
    """A tag as IAM writes it."""

    key: str
    value: str


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (
        put_user_policy,
        get_user_policy,
        list_user_policies,
        delete_user_policy,
        tag_user,
        untag_user,
        list_user_tags,
        create_group,
        list_groups,
        delete_group,
        add_user_to_group,
        remove_user_from_group,
        put_group_policy,
        get_group_policy,
        list_group_policies,
        delete_group_policy,
        reset_key_policy,
    ):
        app.command(command.__name__.replace("_", "-"), rich_help_panel=PANEL)(command)


# -- policies of users ------------------------------------------------------------------------------------------


@with_common("config")
def put_user_policy(
    common: Common, user_name: UserOption, policy_name: PolicyOption, policy_document: DocumentOption
) -> None:
    """Attach a policy to a user, effective at the next request; conf/policies/ has ready-made ones.

    Example: hsmkms put-user-policy --user-name alice --policy-name use --policy-document file://conf/policies/key-user.json
    """
    _put(common, _USER, user_name, policy_name, policy_document)


@with_common("config", "output", "query")
def get_user_policy(common: Common, user_name: UserOption, policy_name: PolicyOption) -> None:
    """Show a policy of a user.

    Example: hsmkms get-user-policy --user-name alice --policy-name use
    """
    _show(common, _USER, user_name, policy_name)


@with_common("config", "output", "query")
def list_user_policies(common: Common, user_name: UserOption) -> None:
    """List the names of a user's own policies.

    Example: hsmkms list-user-policies --user-name alice
    """
    _list(common, _USER, user_name)


@with_common("config")
def delete_user_policy(common: Common, user_name: UserOption, policy_name: PolicyOption) -> None:
    """Delete a policy of a user.

    Example: hsmkms delete-user-policy --user-name alice --policy-name use
    """
    _delete(common, _USER, user_name, policy_name)


# -- tags of users ----------------------------------------------------------------------------------------------


@with_common("config")
def tag_user(common: Common, user_name: UserOption, tags: TagsOption) -> None:
    """Add or replace tags of a user, for aws:PrincipalTag in policies.

    Example: hsmkms tag-user --user-name alice --tags Key=team,Value=red
    """
    new = [(each.key, each.value) for each in values.items("--tags", tags, UserTag)]
    with common.open() as kms:
        kms.operator.identities.tag_user(user_name, new)


@with_common("config")
def untag_user(common: Common, user_name: UserOption, tag_keys: TagKeysOption) -> None:
    """Remove tags of a user.

    Example: hsmkms untag-user --user-name alice --tag-keys team
    """
    with common.open() as kms:
        kms.operator.identities.untag_user(user_name, values.items("--tag-keys", tag_keys, str))


@with_common("config", "output", "query")
def list_user_tags(common: Common, user_name: UserOption) -> None:
    """List the tags of a user.

    Example: hsmkms list-user-tags --user-name alice
    """
    with common.open() as kms:
        tags = kms.operator.identities.user(user_name).tags
    common.show({"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]})


# -- groups -----------------------------------------------------------------------------------------------------


@with_common("config", "output", "query")
def create_group(common: Common, group_name: GroupOption) -> None:
    """Create a group of users; its policies apply to all of them.

    Example: hsmkms create-group --group-name auditors
    """
    with common.open() as kms:
        group = kms.operator.identities.create_group(group_name)
    common.show({"Group": _group(group)})


@with_common("config", "output", "query")
def list_groups(common: Common, user_name: SomeUserOption = None) -> None:
    """List the groups with their users, or the groups of a user.

    Example: hsmkms list-groups --user-name alice
    """
    with common.open() as kms:
        groups = kms.operator.identities.list_groups(user_name)
    common.show({"Groups": [_group(each) for each in groups]})


@with_common("config")
def delete_group(common: Common, group_name: GroupOption) -> None:
    """Delete a group and its policies; its users stay.

    Example: hsmkms delete-group --group-name auditors
    """
    with common.open() as kms:
        kms.operator.identities.delete_group(group_name)


@with_common("config")
def add_user_to_group(common: Common, group_name: GroupOption, user_name: UserOption) -> None:
    """Add a user to a group.

    Example: hsmkms add-user-to-group --group-name auditors --user-name alice
    """
    with common.open() as kms:
        kms.operator.identities.add_user_to_group(group_name, user_name)


@with_common("config")
def remove_user_from_group(common: Common, group_name: GroupOption, user_name: UserOption) -> None:
    """Remove a user from a group.

    Example: hsmkms remove-user-from-group --group-name auditors --user-name alice
    """
    with common.open() as kms:
        kms.operator.identities.remove_user_from_group(group_name, user_name)


# -- policies of groups -----------------------------------------------------------------------------------------


@with_common("config")
def put_group_policy(
    common: Common, group_name: GroupOption, policy_name: PolicyOption, policy_document: DocumentOption
) -> None:
    """Attach a policy to a group, effective at the next request of its users.

    Example: hsmkms put-group-policy --group-name auditors --policy-name read --policy-document file://conf/policies/auditor.json
    """
    _put(common, _GROUP, group_name, policy_name, policy_document)


@with_common("config", "output", "query")
def get_group_policy(common: Common, group_name: GroupOption, policy_name: PolicyOption) -> None:
    """Show a policy of a group.

    Example: hsmkms get-group-policy --group-name auditors --policy-name read
    """
    _show(common, _GROUP, group_name, policy_name)


@with_common("config", "output", "query")
def list_group_policies(common: Common, group_name: GroupOption) -> None:
    """List the names of a group's policies.

    Example: hsmkms list-group-policies --group-name auditors
    """
    _list(common, _GROUP, group_name)


@with_common("config")
def delete_group_policy(common: Common, group_name: GroupOption, policy_name: PolicyOption) -> None:
    """Delete a policy of a group.

    Example: hsmkms delete-group-policy --group-name auditors --policy-name read
    """
    _delete(common, _GROUP, group_name, policy_name)


# -- keys -------------------------------------------------------------------------------------------------------


@with_common("config", "region")
def reset_key_policy(
    common: Common, key_id: Annotated[str, typer.Option("--key-id", help="Key id; no permission on the key is needed.")]
) -> None:
    """Reset a key's policy to the default, if its policy has locked out the operator.

    Example: hsmkms reset-key-policy --key-id KEY_ID
    """
    with common.open() as kms:
        kms.operator.identities.reset_key_policy(key_id, common.region)


# -- of users and groups alike ------------------------------------------------------------------------------------


def _put(common: Common, owner: _Owner, name: str, policy_name: str, policy_document: str) -> None:
    document = values.document("--policy-document", policy_document)
    with common.open() as kms:
        owner.put(kms.operator.identities)(name, policy_name, document)
        notes = kms.operator.notes
        note([*notes.of_own_policy(document), *notes.about_resources(document)])


def _show(common: Common, owner: _Owner, name: str, policy_name: str) -> None:
    documents = _documents(common, owner, name)
    if policy_name not in documents:
        raise NotFoundException(f"The {owner.word} {name} has no policy with name {policy_name}.")
    document = json.loads(documents[policy_name])
    common.show({owner.member: name, "PolicyName": policy_name, "PolicyDocument": document})


def _list(common: Common, owner: _Owner, name: str) -> None:
    common.show({"PolicyNames": list(_documents(common, owner, name))})


def _delete(common: Common, owner: _Owner, name: str, policy_name: str) -> None:
    with common.open() as kms:
        owner.delete(kms.operator.identities)(name, policy_name)


def _documents(common: Common, owner: _Owner, name: str) -> Mapping[str, str]:
    with common.open() as kms:
        return owner.policies(kms.operator.identities)(name)


def _group(group: Any) -> dict[str, Any]:  # noqa: ANN401 - of the service, which help must not load
    return {
        "GroupName": group.group_name,
        "Arn": group.arn,
        "CreateDate": round(group.create_date.timestamp(), 3),
        "Users": group.users,
    }
