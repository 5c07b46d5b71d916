"""Store the installation's identity: its id and account, its tokens, and its own keys on them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from msgspec import Struct, convert
from sqlalchemy import Connection, Select, bindparam, func, select

from hsmkms.errors import StoreError
from hsmkms.model.own_keys import KeyPurpose
from hsmkms.store import changes, schema

SUBJECT: Final = "installation"
"""Subject in the change log for changes of the bound tokens, and for databases that came back."""

T = TypeVar("T", bound=Struct)

# Built once: building a statement takes longer than SQLite takes to run it, and each creation of a key runs these.
_KEY, _TOKEN = schema.installation_key.c, schema.token.c
_TOKENS: Final = select(
    _TOKEN.id,
    _TOKEN.label,
    _TOKEN.serial,
    _TOKEN.manufacturer,
    _TOKEN.model,
    _TOKEN.created_at,
    _TOKEN.challenge,
    _TOKEN.response,
).order_by(_TOKEN.created_at, _TOKEN.id)
_HOME: Final = (
    select(_KEY.token_id)
    .join(schema.token, _TOKEN.id == _KEY.token_id)
    .where(_KEY.purpose == KeyPurpose.MAC, _TOKEN.response.is_not(None))
    .order_by(_KEY.version.desc())
    .limit(1)
)
_KEYS: Final = (
    select(
        _KEY.purpose,
        _KEY.version,
        _KEY.token_id,
        _KEY.cka_id,
        _KEY.created_at,
        _KEY.made_at,
        _KEY.challenge,
        _KEY.response,
    )
    .join(schema.token, _TOKEN.id == _KEY.token_id)
    .order_by(_KEY.purpose, _KEY.version)
)
_BOUND_KEYS: Final = _KEYS.where(_TOKEN.response.is_not(None))
_KEYS_OF: Final = _KEYS.where(_KEY.token_id == bindparam("of"))


class InstallationRow(Struct, frozen=True, kw_only=True):
    """The installation: ``id`` is 32 hex digits, ``account`` 12 digits, ``restored_at`` the last restore.

    At ``clock_trusted_at`` the operator confirmed the clock, although the newest stored date was
    ``clock_trusted_over``.
    """

    id: str
    account: str
    created_at: datetime
    restored_at: datetime | None = None
    clock_trusted_at: datetime | None = None
    clock_trusted_over: datetime | None = None


class TokenRow(Struct, frozen=True, kw_only=True):
    """A token that the installation has keys on.

    It is identified by ``response``, its installation key's answer to ``challenge``, and by its serial, which
    distinguishes it from its clones. Challenge and response are None until `hsmkms init` has written them, and again
    once the token was forgotten.
    """

    id: str
    label: str
    serial: str
    manufacturer: str
    model: str
    created_at: datetime
    challenge: bytes | None = None
    response: bytes | None = None


class InstallationKeyRow(Struct, frozen=True, kw_only=True):
    """A key of the installation itself on a token; ``version`` counts from 1 within its purpose.

    ``made_at``: when it was first seen on its token. None if it is only intended so far, or an older program made it.
    ``challenge`` and ``response`` identified the token while this version of the MAC key was the newest.
    """

    purpose: str
    version: int
    token_id: str
    cka_id: bytes
    created_at: datetime
    made_at: datetime | None = None
    challenge: bytes | None = None
    response: bytes | None = None

    def label(self, installation_id: str) -> str:
        """Return its label on the token, which may cut it. Labels of KMS keys have another form."""
        return f"hsmkms/{installation_id[:8]}/{self.purpose}/{self.version}"


def insert(tx: Connection, installation_id: str, account: str, now: datetime) -> InstallationRow:
    """Insert the only row; StoreError (raised by ``atomic``) if it exists."""
    tx.execute(schema.installation.insert().values(only=1, id=installation_id, account=account, created_at=now))
    return InstallationRow(id=installation_id, account=account, created_at=now)


def fetch(conn: Connection) -> InstallationRow | None:
    """Return the installation, or None before `hsmkms init` has written it."""
    table = schema.installation.c
    query = select(
        table.id,
        table.account,
        table.created_at,
        table.restored_at,
        table.clock_trusted_at,
        table.clock_trusted_over,
    )
    return next(iter(_rows(InstallationRow, conn, query)), None)


def trust_clock(tx: Connection, now: datetime, newest: datetime | None) -> None:
    """Record the operator's confirmation that it is ``now``, despite newer dates in the store up to ``newest``."""
    tx.execute(schema.installation.update().values(clock_trusted_at=now, clock_trusted_over=newest))


def set_restored(tx: Connection, restored_at: datetime) -> None:
    """Record that the database was restored from a backup, for all processes."""
    tx.execute(schema.installation.update().values(restored_at=restored_at))
    changes.note(tx, "", SUBJECT)


def insert_token(
    tx: Connection, token_id: str, label: str, serial: str, manufacturer: str, model: str, now: datetime
) -> TokenRow:
    """Insert a token that is not bound yet."""
    tx.execute(
        schema.token.insert().values(
            id=token_id, label=label, serial=serial, manufacturer=manufacturer, model=model, created_at=now
        )
    )
    return TokenRow(id=token_id, label=label, serial=serial, manufacturer=manufacturer, model=model, created_at=now)


def bind_token(tx: Connection, token_id: str, challenge: bytes, response: bytes) -> None:
    """Store the challenge and response that identify the token."""
    tx.execute(
        schema.token.update().where(schema.token.c.id == token_id).values(challenge=challenge, response=response)
    )
    changes.note(tx, "", SUBJECT)


def unbind_token(tx: Connection, token_id: str) -> None:
    """Remove a token's challenge and response, so that it counts as never bound."""
    tx.execute(schema.token.update().where(schema.token.c.id == token_id).values(challenge=None, response=None))
    changes.note(tx, "", SUBJECT)


def rename_token(tx: Connection, token_id: str, label: str, serial: str) -> None:
    """Record a new label and serial of a token: those of the clone that replaces it."""
    tx.execute(schema.token.update().where(schema.token.c.id == token_id).values(label=label, serial=serial))
    changes.note(tx, "", SUBJECT)


def tokens(conn: Connection) -> list[TokenRow]:
    """Return all tokens in the order in which they were added."""
    return _rows(TokenRow, conn, _TOKENS)


def token(conn: Connection, token_id: str) -> TokenRow | None:
    """Return the token of that id, or None."""
    return next((each for each in tokens(conn) if each.id == token_id), None)


def home(conn: Connection) -> TokenRow | None:
    """Return the token on which keys are created: the bound one with the newest version of the MAC key, or None.

    Versions are numbered across all tokens, so this does not depend on any clock.
    """
    token_id = conn.scalar(_HOME)
    return next((each for each in tokens(conn) if each.id == token_id), None)


def is_home(conn: Connection, token_id: str) -> bool:
    """Return True if that token is the home; checked in the transaction that records a created key."""
    current = home(conn)
    return current is not None and current.id == token_id


def insert_installation_key(
    tx: Connection, purpose: str, version: int, token_id: str, cka_id: bytes, now: datetime
) -> InstallationKeyRow:
    """Insert an installation key; ``cka_id`` has 16 bytes."""
    tx.execute(
        schema.installation_key.insert().values(
            purpose=purpose, version=version, token_id=token_id, cka_id=cka_id, created_at=now
        )
    )
    return InstallationKeyRow(purpose=purpose, version=version, token_id=token_id, cka_id=cka_id, created_at=now)


def next_version(conn: Connection, purpose: str) -> int:
    """Return the next version for a purpose, counting all tokens, including those that were never bound."""
    key = schema.installation_key.c
    return (conn.scalar(select(func.max(key.version)).where(key.purpose == purpose)) or 0) + 1


def delete_installation_key(tx: Connection, key: InstallationKeyRow) -> None:
    """Delete the row of a version that is no longer on the token."""
    tx.execute(schema.installation_key.delete().where(schema.installation_key.c.cka_id == key.cka_id))


def set_key_date(tx: Connection, key: InstallationKeyRow, now: datetime) -> None:
    """Set the creation date of a version that was only intended so far to now."""
    tx.execute(
        schema.installation_key.update().where(schema.installation_key.c.cka_id == key.cka_id).values(created_at=now)
    )


def note_made(tx: Connection, key: InstallationKeyRow, now: datetime) -> InstallationKeyRow:
    """Record that a version is on its token, so that its absence later means loss; return the stored row."""
    table = schema.installation_key
    tx.execute(table.update().where(table.c.cka_id == key.cka_id, table.c.made_at.is_(None)).values(made_at=now))
    return next((each for each in installation_keys(tx, key.token_id) if each.cka_id == key.cka_id), key)


def note_answer(tx: Connection, key: InstallationKeyRow, challenge: bytes, response: bytes) -> None:
    """Store a MAC key version's challenge and response, to identify copies of the token without newer versions."""
    table = schema.installation_key
    tx.execute(table.update().where(table.c.cka_id == key.cka_id).values(challenge=challenge, response=response))


def versions(conn: Connection, purpose: str, token_id: str | None = None) -> list[InstallationKeyRow]:
    """Return the installation keys for a purpose, oldest first: on one token, or on all bound tokens."""
    return [each for each in installation_keys(conn, token_id) if each.purpose == purpose]


def installation_keys(conn: Connection, token_id: str | None = None) -> list[InstallationKeyRow]:
    """Return the installation keys on one token, or on all bound tokens, by purpose and then by version."""
    if token_id is None:
        return _rows(InstallationKeyRow, conn, _BOUND_KEYS)
    return _rows(InstallationKeyRow, conn, _KEYS_OF, {"of": token_id})


def _rows(kind: type[T], conn: Connection, query: Select[Any], parameters: Mapping[str, Any] | None = None) -> list[T]:
    """Return the rows of a query; StoreError for values of other types: they are read before seals can be checked."""
    try:
        found = conn.execute(query, parameters).mappings()
        return [convert({str(name): value for name, value in row.items()}, kind) for row in found]
    except (TypeError, ValueError, OverflowError) as exc:  # ValidationError is a ValueError
        raise StoreError(
            "the rows of the installation, its tokens or its own keys hold a value that hsmkms never writes: the "
            "control-plane database was changed by something else. Restore a backup"
        ) from exc
