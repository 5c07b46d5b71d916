"""Manage users and their access keys for the operator, and look up the secret that verifies a signature.

A secret is made of the token's random bytes, shown once, and stored encrypted by an installation key on the token, so
that nobody can sign with a stolen database.
"""

import base64
import re
import threading
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.errors import (
    AlreadyExistsException,
    ConflictException,
    LimitExceededException,
    NotFoundException,
    ObjectLostError,
    ValidationException,
)
from hsmkms.model.ids import ROOT_PATH, new_user_id, root_arn, user_arn
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.model.permit import OperatorAct
from hsmkms.rules.iam.principals import is_path
from hsmkms.service.keys.installation_keys import encryption_key, lost, versions
from hsmkms.service.operator.identities import Identities
from hsmkms.service.operator.recorded import recorded_in_iam
from hsmkms.service.runtime.core import Core
from hsmkms.service.runtime.permits import own_permit
from hsmkms.store import installation, users
from hsmkms.store.installation import InstallationKeyRow
from hsmkms.store.statuses import AccessKeyStatus
from hsmkms.store.users import AccessKeyRow, UserRow

MAX_ACCESS_KEYS: Final = 2
"""The limit for each user: two, so that one can be replaced without an interruption."""

_SECRET_BYTES: Final = 30
_ID_BYTES: Final = 10
_AAD: Final = b"hsmkms access key v1\x00"
_match_name: Final = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}").fullmatch


class NewAccessKey(Struct, frozen=True, kw_only=True):
    """A new access key, with its secret, which is never returned again."""

    user_name: str | None
    access_key_id: str
    secret_access_key: str
    status: AccessKeyStatus
    create_date: datetime

    def __repr__(self) -> str:
        """Omit the secret."""
        return f"NewAccessKey({self.access_key_id})"


class AccessKey(Struct, frozen=True, kw_only=True):
    """An access key without its secret."""

    user_name: str | None
    access_key_id: str
    status: AccessKeyStatus
    create_date: datetime
    last_used: datetime | None
    last_used_region: str | None


class User(Struct, frozen=True, kw_only=True):
    """A user by name, path, unique id and ARN."""

    user_name: str
    path: str
    user_id: str
    arn: str
    create_date: datetime
    access_keys: int


class Credential(Struct, frozen=True):
    """The secret that verifies a signature, and the principal (an ARN) that signs with it."""

    secret: str
    principal: str

    def __repr__(self) -> str:
        """Omit the secret."""
        return f"Credential({self.principal})"


class Credentials:
    """Users and access keys of an open installation. Get it as ``kms.operator.credentials``."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.derived = core.cache.look
        """Returns what was derived from credentials and other records since any of them changed, in any process."""
        self._opened: dict[str, tuple[bytes, Credential]] = {}
        self._unwritten_uses: dict[str, tuple[datetime, str]] = {}
        self._writing_uses = threading.Lock()

    # -- users --------------------------------------------------------------------------------------------------

    @recorded_in_iam("CreateUser", name="userName", path="path")
    def create_user(self, name: str, path: str = ROOT_PATH) -> User:
        """Create a user. AlreadyExistsException if the name is taken, with any path.

        ``path``: the part before the name in the user's ARN, as ``/division/``. ValidationException for a name or path
        that IAM would refuse.
        """
        if not _match_name(name):
            raise ValidationException(f"{name!r} is no user name: 1 to 64 letters, digits or any of _+=,.@-")
        if not is_path(path):
            raise ValidationException(
                f"{path!r} is no path: write /division/, with a slash at both ends and letters, digits or any of "
                "_+=,.@- between slashes, 512 characters at most."
            )
        row = UserRow(name=name, created_at=self._core.clock(), unique_id=new_user_id(), path=path, access_keys=0)
        with self._core.store.atomic() as tx:
            if not users.insert_user(tx, row.name, row.created_at, row.unique_id, path):
                raise AlreadyExistsException(f"User with name {name} already exists.")
            # Policies and grants that already name this ARN were written before the user existed, or mean a deleted
            # user whose ARN an older version did not replace. They must not allow the new user anything, so the ARN is
            # replaced there by an unused unique id; but a Deny stays, whichever user was meant.
            Identities(self._core).replace_arn(tx, self._user(row).arn, new_user_id(), denied=False)
        return self._user(row)

    @recorded_in_iam("ListUsers")
    def list_users(self) -> list[User]:
        """Return all users, sorted by name."""
        with self._core.store.reading() as conn:
            return [self._user(each) for each in users.users(conn)]

    @recorded_in_iam("DeleteUser", name="userName")
    def delete_user(self, name: str) -> None:
        """Delete a user with their permissions. ConflictException while they have access keys: delete those first."""
        with self._core.store.atomic() as tx:
            if users.access_keys(tx, name):
                raise ConflictException(f"The user {name} has access keys: delete them first with delete-access-key.")
            Identities(self._core).forget_user(tx, name)
            users.delete_user(tx, name)

    # -- access keys --------------------------------------------------------------------------------------------

    @recorded_in_iam("CreateAccessKey", user_name="userName")
    def create_access_key(self, user_name: str | None) -> NewAccessKey:
        """Create an access key for a user, or for the root if none is named. LimitExceededException at the third."""
        core = self._core
        key = encryption_key(core, KeyPurpose.SECRETS, OperatorAct.CREDENTIALS)
        draw = own_permit(OperatorAct.CREDENTIALS, key.cka_id)
        drawn = core.device.ciphers.random(draw, _SECRET_BYTES + _ID_BYTES)
        secret = base64.b64encode(drawn[:_SECRET_BYTES]).decode("ascii")
        access_key_id = "AKIA" + base64.b32encode(drawn[_SECRET_BYTES:]).decode("ascii")
        iv, sealed = core.tokens.of(key.token_id).ciphers.encrypt(
            draw, key.cka_id, secret.encode(), _aad(access_key_id)
        )
        row = AccessKeyRow(
            access_key_id=access_key_id,
            user_name=user_name,
            status=AccessKeyStatus.ACTIVE,
            created_at=core.clock(),
            key_version=key.version,
            iv=iv,
            sealed=sealed,
        )
        with core.store.atomic() as tx:
            if installation.versions(tx, KeyPurpose.SECRETS)[-1] != key:
                raise ConflictException("The key that encrypts stored secrets was rotated just now: try again.")
            if user_name is not None and user_name not in {each.name for each in users.users(tx)}:
                raise _no_user(user_name)
            if len(users.access_keys(tx, user_name)) >= MAX_ACCESS_KEYS:
                raise LimitExceededException(
                    f"There are {MAX_ACCESS_KEYS} access keys already: delete one that is not used any more."
                )
            users.insert_access_key(tx, row)
        return NewAccessKey(
            user_name=user_name,
            access_key_id=access_key_id,
            secret_access_key=secret,
            status=row.status,
            create_date=row.created_at,
        )

    @recorded_in_iam("ListAccessKeys", user_name="userName")
    def list_access_keys(self, user_name: str | None) -> list[AccessKey]:
        """Return the access keys of a user, or of the root, with their last use."""
        with self._core.store.reading() as conn:
            rows = users.access_keys(conn, user_name)
        uses = users.last_uses(self._core.store)
        return [_access_key(each, uses.get(each.access_key_id)) for each in rows]

    @recorded_in_iam("UpdateAccessKey", access_key_id="accessKeyId", active="active")
    def update_access_key(self, access_key_id: str, *, active: bool) -> None:
        """Deactivate or reactivate an access key, effective at the next request of every process."""
        status = AccessKeyStatus.ACTIVE if active else AccessKeyStatus.INACTIVE
        with self._core.store.atomic() as tx:
            if not users.set_status(tx, access_key_id, status):
                raise _no_access_key(access_key_id)

    @recorded_in_iam("DeleteAccessKey", access_key_id="accessKeyId")
    def delete_access_key(self, access_key_id: str) -> None:
        """Delete an access key, effective at the next request of every process."""
        with self._core.store.atomic() as tx:
            if not users.delete_access_key(tx, access_key_id):
                raise _no_access_key(access_key_id)

    # -- checking signatures ------------------------------------------------------------------------------------

    def find(self, access_key_id: str) -> Credential | None:
        """Return secret and principal of an active access key, or None; a change by any process is seen."""
        row = self._core.cache.access_key(access_key_id)
        if row is None or row.status is not AccessKeyStatus.ACTIVE:
            return None
        sealed, credential = self._opened.get(access_key_id) or (b"", None)
        if credential is None or sealed is not row.sealed:
            credential = Credential(self._secret(row), self._principal(row.user_name, row.user_path))
            self._opened[access_key_id] = (row.sealed, credential)
        return credential

    def note_use(self, access_key_id: str, region: str) -> None:
        """Record that an access key was used now. What cannot be stored is kept for the next call, or the next try."""
        self._unwritten_uses[access_key_id] = (self._core.clock(), region)
        self.write_uses()

    def write_uses(self) -> None:
        """Store the uses that are not stored yet."""
        with self._writing_uses:
            uses = dict(self._unwritten_uses)
            if uses:
                users.note_uses(self._core.store, uses)
            for access_key_id, use in uses.items():
                if self._unwritten_uses.get(access_key_id) == use:
                    del self._unwritten_uses[access_key_id]

    def move_secrets(self, key: InstallationKeyRow) -> None:
        """Re-encrypt by this version of the key all secrets that other versions encrypt. Can be repeated."""
        for row in self.secrets_elsewhere(key):
            permit = own_permit(OperatorAct.CREDENTIALS, key.cka_id)
            secret = self._secret(row).encode("ascii")
            device = self._core.tokens.of(key.token_id)
            iv, sealed = device.ciphers.encrypt(permit, key.cka_id, secret, _aad(row.access_key_id))
            with self._core.store.atomic() as tx:
                users.set_secret(tx, row, replace(row, key_version=key.version, iv=iv, sealed=sealed))
            self._core.reached("rotate-own 3: a secret")

    def secrets_elsewhere(self, key: InstallationKeyRow) -> list[AccessKeyRow]:
        """Return the access keys whose secrets are encrypted by other versions of the key."""
        with self._core.store.reading() as conn:
            return [each for each in users.all_access_keys(conn) if each.key_version != key.version]

    def _secret(self, row: AccessKeyRow) -> str:
        core = self._core
        keys = {each.version: each for each in versions(core, KeyPurpose.SECRETS)}
        if row.key_version not in keys:
            raise ObjectLostError(f"the key that encrypts the secret of {row.access_key_id} was destroyed")
        key = keys[row.key_version]
        permit, device = own_permit(OperatorAct.CREDENTIALS, key.cka_id), core.tokens.of(key.token_id)
        try:
            return device.ciphers.decrypt(permit, key.cka_id, row.iv, row.sealed, _aad(row.access_key_id)).decode(
                "ascii"
            )
        except ObjectLostError as exc:
            raise lost(key) from exc

    def _user(self, row: UserRow) -> User:
        return User(
            user_name=row.name,
            path=row.path,
            user_id=row.unique_id,
            arn=self._principal(row.name, row.path),
            create_date=row.created_at,
            access_keys=row.access_keys,
        )

    def _principal(self, user_name: str | None, path: str) -> str:
        account = self._core.installation.account
        return root_arn(account) if user_name is None else user_arn(account, user_name, path)


def _access_key(row: AccessKeyRow, use: tuple[datetime, str] | None) -> AccessKey:
    return AccessKey(
        user_name=row.user_name,
        access_key_id=row.access_key_id,
        status=row.status,
        create_date=row.created_at,
        last_used=use[0] if use else None,
        last_used_region=use[1] if use else None,
    )


def _aad(access_key_id: str) -> bytes:
    return _AAD + access_key_id.encode("ascii")


def _no_user(name: str) -> NotFoundException:
    return NotFoundException(f"The user with name {name} cannot be found: list-users shows all users.")


def _no_access_key(access_key_id: str) -> NotFoundException:
    return NotFoundException(f"The Access Key with id {access_key_id} cannot be found.")
