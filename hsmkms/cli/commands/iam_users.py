"""Commands about the endpoint's users and their access keys, with the names and answers of `aws iam`."""

from datetime import datetime
from typing import Annotated, Any, Final

import typer

from hsmkms.cli.options import Common, with_common
from hsmkms.errors import ValidationException

PANEL: Final = "Users"
NEW_USER: Final = "The user may do nothing yet: give permissions with put-user-policy or add-user-to-group."

PathOption = Annotated[str, typer.Option("--path", help="Path before the name in the ARN, such as /division/.")]
UserOption = Annotated[str, typer.Option("--user-name", help="Name of the user.")]
OwnerOption = Annotated[str | None, typer.Option("--user-name", help="Name of the user.", show_default=False)]
RootOption = Annotated[bool, typer.Option("--root", help="The account's root instead of a user.")]
KeyOption = Annotated[str, typer.Option("--access-key-id", help="Id of the access key.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (
        create_user,
        list_users,
        delete_user,
        create_access_key,
        list_access_keys,
        update_access_key,
        delete_access_key,
    ):
        app.command(command.__name__.replace("_", "-"), rich_help_panel=PANEL)(command)


@with_common("config", "output", "query")
def create_user(common: Common, *, user_name: UserOption, path: PathOption = "/") -> None:
    """Create a user of the endpoint, without any permission yet: see put-user-policy and add-user-to-group.

    Example: hsmkms create-user --user-name alice
    """
    with common.open() as kms:
        user = kms.operator.credentials.create_user(user_name, path)
    common.show({"User": _user(user), "Note": NEW_USER})


@with_common("config", "output", "query")
def list_users(common: Common) -> None:
    """List the users.

    Example: hsmkms list-users
    """
    with common.open() as kms:
        users = kms.operator.credentials.list_users()
    common.show({"Users": [_user(each) for each in users]})


@with_common("config")
def delete_user(common: Common, user_name: UserOption) -> None:
    """Delete a user; delete their access keys first.

    Example: hsmkms delete-user --user-name alice
    """
    with common.open() as kms:
        kms.operator.credentials.delete_user(user_name)


@with_common("config", "output", "query")
def create_access_key(common: Common, *, user_name: OwnerOption = None, root: RootOption = False) -> None:
    """Create an access key. Its secret is shown here and never again.

    Example: hsmkms create-access-key --user-name alice
    """
    with common.open() as kms:
        made = kms.operator.credentials.create_access_key(_owner(user_name, root=root))
    common.show(
        {
            "AccessKey": {
                "UserName": made.user_name,
                "AccessKeyId": made.access_key_id,
                "Status": made.status,
                "SecretAccessKey": made.secret_access_key,
                "CreateDate": _date(made.create_date),
            }
        }
    )


@with_common("config", "output", "query")
def list_access_keys(common: Common, *, user_name: OwnerOption = None, root: RootOption = False) -> None:
    """List the access keys of a user, with their last use.

    Example: hsmkms list-access-keys --user-name alice
    """
    with common.open() as kms:
        keys = kms.operator.credentials.list_access_keys(_owner(user_name, root=root))
    common.show(
        {
            "AccessKeyMetadata": [
                {
                    "UserName": each.user_name,
                    "AccessKeyId": each.access_key_id,
                    "Status": each.status,
                    "CreateDate": _date(each.create_date),
                    "LastUsedDate": _date(each.last_used),
                    "LastUsedRegion": each.last_used_region,
                }
                for each in keys
            ]
        }
    )


@with_common("config")
def update_access_key(
    common: Common,
    access_key_id: KeyOption,
    status: Annotated[str, typer.Option("--status", help="Active or Inactive.")],
) -> None:
    """Deactivate or reactivate an access key, effective at the next request.

    Example: hsmkms update-access-key --access-key-id AKIAEXAMPLE --status Inactive
    """
    if status not in ("Active", "Inactive"):
        raise ValidationException(f"--status is {status!r}: it must be Active or Inactive.")
    with common.open() as kms:
        kms.operator.credentials.update_access_key(access_key_id, active=status == "Active")


@with_common("config")
def delete_access_key(common: Common, access_key_id: KeyOption) -> None:
    """Delete an access key, effective at the next request.

    Example: hsmkms delete-access-key --access-key-id AKIAEXAMPLE
    """
    with common.open() as kms:
        kms.operator.credentials.delete_access_key(access_key_id)


def _owner(user_name: str | None, *, root: bool) -> str | None:
    if (user_name is None) is not root:
        raise typer.BadParameter("name a user with --user-name, or say --root")
    return user_name


def _user(user: Any) -> dict[str, Any]:  # noqa: ANN401 - of the service, which help must not load
    return {
        "UserName": user.user_name,
        "Path": user.path,
        "UserId": user.user_id,
        "Arn": user.arn,
        "CreateDate": _date(user.create_date),
        "AccessKeys": user.access_keys,
    }


def _date(moment: datetime | None) -> float | None:
    """Convert an instant to the API's form: seconds since 1970."""
    return round(moment.timestamp(), 3) if moment is not None else None
