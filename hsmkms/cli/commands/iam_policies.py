"""What users and groups may do: the commands and answers of `aws iam`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from msgspec import Struct

from hsmkms.cli.api import values
from hsmkms.cli.options import Common, ConfigOption, OutputOption, QueryOption, RegionOption, note, outer_options
from hsmkms.errors import NotFoundException

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


def put_user_policy(
    context: typer.Context,
    user_name: UserOption,
    policy_name: PolicyOption,
    policy_document: DocumentOption,
    config: ConfigOption = None,
) -> None:
    """Attach a policy to a user, effective at the next request; conf/policies/ has ready-made ones.

    Example: hsmkms put-user-policy --user-name alice --policy-name use --policy-document file://conf/policies/key-user.json
    """
    document = values.text("--policy-document", policy_document)
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.put_user_policy(user_name, policy_name, document)
        note(kms.operator.notes.of_own_policy(document))


def get_user_policy(
    context: typer.Context,
    user_name: UserOption,
    policy_name: PolicyOption,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Show a policy of a user.

    Example: hsmkms get-user-policy --user-name alice --policy-name use
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        held = kms.operator.identities.user_policies(user_name)
    document = _document(held, policy_name, f"user {user_name}")
    common.show({"UserName": user_name, "PolicyName": policy_name, "PolicyDocument": document})


def list_user_policies(
    context: typer.Context,
    user_name: UserOption,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """List the names of a user's own policies.

    Example: hsmkms list-user-policies --user-name alice
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        held = kms.operator.identities.user_policies(user_name)
    common.show({"PolicyNames": list(held)})


def delete_user_policy(
    context: typer.Context, user_name: UserOption, policy_name: PolicyOption, config: ConfigOption = None
) -> None:
    """Delete a policy of a user.

    Example: hsmkms delete-user-policy --user-name alice --policy-name use
    """
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.delete_user_policy(user_name, policy_name)


# -- tags of users ----------------------------------------------------------------------------------------------


def tag_user(context: typer.Context, user_name: UserOption, tags: TagsOption, config: ConfigOption = None) -> None:
    """Add or replace tags of a user, for aws:PrincipalTag in policies.

    Example: hsmkms tag-user --user-name alice --tags Key=team,Value=red
    """
    new = [(each.key, each.value) for each in values.items("--tags", tags, UserTag)]
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.tag_user(user_name, new)


def untag_user(
    context: typer.Context, user_name: UserOption, tag_keys: TagKeysOption, config: ConfigOption = None
) -> None:
    """Remove tags of a user.

    Example: hsmkms untag-user --user-name alice --tag-keys team
    """
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.untag_user(user_name, values.items("--tag-keys", tag_keys, str))


def list_user_tags(
    context: typer.Context,
    user_name: UserOption,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """List the tags of a user.

    Example: hsmkms list-user-tags --user-name alice
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        held = kms.operator.identities.user(user_name).tags
    common.show({"Tags": [{"Key": key, "Value": value} for key, value in held.items()]})


# -- groups -----------------------------------------------------------------------------------------------------


def create_group(
    context: typer.Context,
    group_name: GroupOption,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Create a group of users; its policies apply to all of them.

    Example: hsmkms create-group --group-name auditors
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        group = kms.operator.identities.create_group(group_name)
    common.show({"Group": _group(group)})


def list_groups(
    context: typer.Context,
    user_name: SomeUserOption = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """List the groups with their users, or the groups of a user.

    Example: hsmkms list-groups --user-name alice
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        groups = kms.operator.identities.list_groups(user_name)
    common.show({"Groups": [_group(each) for each in groups]})


def delete_group(context: typer.Context, group_name: GroupOption, config: ConfigOption = None) -> None:
    """Delete a group and its policies; its users stay.

    Example: hsmkms delete-group --group-name auditors
    """
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.delete_group(group_name)


def add_user_to_group(
    context: typer.Context, group_name: GroupOption, user_name: UserOption, config: ConfigOption = None
) -> None:
    """Add a user to a group.

    Example: hsmkms add-user-to-group --group-name auditors --user-name alice
    """
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.add_user_to_group(group_name, user_name)


def remove_user_from_group(
    context: typer.Context, group_name: GroupOption, user_name: UserOption, config: ConfigOption = None
) -> None:
    """Remove a user from a group.

    Example: hsmkms remove-user-from-group --group-name auditors --user-name alice
    """
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.remove_user_from_group(group_name, user_name)


# -- policies of groups -----------------------------------------------------------------------------------------


def put_group_policy(
    context: typer.Context,
    group_name: GroupOption,
    policy_name: PolicyOption,
    policy_document: DocumentOption,
    config: ConfigOption = None,
) -> None:
    """Attach a policy to a group, effective at the next request of its users.

    Example: hsmkms put-group-policy --group-name auditors --policy-name read --policy-document file://conf/policies/auditor.json
    """
    document = values.text("--policy-document", policy_document)
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.put_group_policy(group_name, policy_name, document)
        note(kms.operator.notes.of_own_policy(document))


def get_group_policy(
    context: typer.Context,
    group_name: GroupOption,
    policy_name: PolicyOption,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """Show a policy of a group.

    Example: hsmkms get-group-policy --group-name auditors --policy-name read
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        held = kms.operator.identities.group_policies(group_name)
    document = _document(held, policy_name, f"group {group_name}")
    common.show({"GroupName": group_name, "PolicyName": policy_name, "PolicyDocument": document})


def list_group_policies(
    context: typer.Context,
    group_name: GroupOption,
    config: ConfigOption = None,
    output: OutputOption = None,
    query: QueryOption = None,
) -> None:
    """List the names of a group's policies.

    Example: hsmkms list-group-policies --group-name auditors
    """
    common = Common(config=config, output=output, query=query).over(outer_options(context))
    with common.open() as kms:
        held = kms.operator.identities.group_policies(group_name)
    common.show({"PolicyNames": list(held)})


def delete_group_policy(
    context: typer.Context, group_name: GroupOption, policy_name: PolicyOption, config: ConfigOption = None
) -> None:
    """Delete a policy of a group.

    Example: hsmkms delete-group-policy --group-name auditors --policy-name read
    """
    with Common(config=config).over(outer_options(context)).open() as kms:
        kms.operator.identities.delete_group_policy(group_name, policy_name)


# -- keys -------------------------------------------------------------------------------------------------------


def reset_key_policy(
    context: typer.Context,
    key_id: Annotated[str, typer.Option("--key-id", help="Key id; no permission on the key is needed.")],
    config: ConfigOption = None,
    region: RegionOption = None,
) -> None:
    """Reset a key's policy to the default, if its policy has locked out the operator.

    Example: hsmkms reset-key-policy --key-id KEY_ID
    """
    common = Common(config=config, region=region).over(outer_options(context))
    with common.open() as kms:
        kms.operator.identities.reset_key_policy(key_id, common.region)


def _document(held: Mapping[str, str], policy_name: str, owner: str) -> Any:  # noqa: ANN401 - JSON
    if policy_name not in held:
        raise NotFoundException(f"The {owner} has no policy with name {policy_name}.")
    return json.loads(held[policy_name])


def _group(group: Any) -> dict[str, Any]:  # noqa: ANN401 - of the service, which help must not load
    return {
        "GroupName": group.group_name,
        "Arn": group.arn,
        "CreateDate": round(group.create_date.timestamp(), 3),
        "Users": group.users,
    }
