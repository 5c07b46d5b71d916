"""Define the tables of ``meta.db``, as this version of the program reads and writes them.

It holds data that control-plane operations change. Instants are INTEGER microseconds since 1970 in the database and
aware UTC datetimes outside it. A change here needs a migration; a test compares the two.
"""

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from hsmkms.model.enums import (
    ExpirationModel,
    KeyManager,
    KeySpec,
    KeyState,
    KeyUsage,
    MaterialState,
    Origin,
    RotationType,
)
from hsmkms.store.instant import WIDE, Instant
from hsmkms.store.statuses import AccessKeyStatus, Lifecycle, ObjectPurpose, ObjectStatus

META_REVISIONS: Final = tuple(f"meta_{number:04}" for number in range(1, 10))
LOG_REVISIONS: Final = tuple(f"log_{number:04}" for number in range(1, 4))
"""Known revisions of each database, oldest first; the last is the one that this program works with."""


def one_of(column: str, words: type[StrEnum]) -> CheckConstraint:
    """Return the constraint that a column holds one of the words of an enumeration."""
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
"""Every constraint has a name, so that a later migration can change it."""

meta: Final = MetaData(naming_convention=NAMES)

installation: Final = Table(
    "installation",
    meta,
    Column("only", Integer, CheckConstraint("only = 1", name="only"), primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("restored_at", Instant),
    Column("clock_trusted_at", Instant),
    Column("clock_trusted_over", Instant),
)
"""``clock_trusted_at``: when the operator last confirmed that the clock is right, although the newest date in the
database was ``clock_trusted_over``."""

token: Final = Table(
    "token",
    meta,
    Column("id", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("manufacturer", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("challenge", LargeBinary),
    Column("response", LargeBinary),
    CheckConstraint("(challenge IS NULL) = (response IS NULL)", name="bound"),
)

installation_key: Final = Table(
    "installation_key",
    meta,
    Column("purpose", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("token_id", Text, ForeignKey("token.id"), primary_key=True),
    Column("cka_id", LargeBinary, CheckConstraint("length(cka_id) = 16", name="cka_id"), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("made_at", Instant),
    Column("challenge", LargeBinary),
    Column("response", LargeBinary),
)

key: Final = Table(
    "key",
    meta,
    Column("key_id", Text, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("manager", Text, nullable=False),
    Column("multi_region", Boolean, nullable=False),
    Column("creation_date", Instant, nullable=False),
    Column("primary_region", Text),
    one_of("spec", KeySpec),
    one_of("usage", KeyUsage),
    one_of("origin", Origin),
    one_of("manager", KeyManager),
)
"""Data that all regions of a key share. ``primary_region``: set for a multi-Region key; as long as the key is live in
any region, it is live there."""

regional_key: Final = Table(
    "regional_key",
    meta,
    Column("key_id", Text, ForeignKey("key.key_id"), primary_key=True),
    Column("region", Text, primary_key=True),
    Column("lifecycle", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("creation_date", Instant, nullable=False),
    Column("deletion_date", Instant),
    Column("pending_window_days", Integer),
    Column("version", WIDE, nullable=False),
    one_of("lifecycle", Lifecycle),
    one_of("state", KeyState),
    Index("ix_regional_key_region", "region", "key_id"),
)

rotation: Final = Table(
    "rotation",
    meta,
    Column("key_id", Text, ForeignKey("key.key_id"), primary_key=True),
    Column("anchor", Instant, nullable=False),
    Column("period_days", Integer, CheckConstraint("period_days > 0", name="period_days")),
)
"""Keys with automatic rotation. Without ``period_days`` the installation's period applies."""

material: Final = Table(
    "material",
    meta,
    Column("id", Integer, primary_key=True),
    Column("key_id", Text, ForeignKey("key.key_id"), nullable=False),
    Column("material_id", Text, nullable=False, unique=True),
    Column("sequence", Integer, CheckConstraint("sequence >= 1", name="sequence"), nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("rotation_date", Instant),
    Column("rotation_type", Text),
    Column("description", Text),
    Column("host_unwrapped", Boolean, nullable=False, server_default="0"),
    UniqueConstraint("key_id", "sequence"),
    one_of("state", MaterialState),
    one_of("rotation_type", RotationType),
)

material_presence: Final = Table(
    "material_presence",
    meta,
    Column("key_id", Text, primary_key=True),
    Column("region", Text, primary_key=True),
    Column("material", Integer, ForeignKey("material.id"), primary_key=True),
    Column("present", Boolean, nullable=False),
    Column("expiration_model", Text),
    Column("valid_to", Instant),
    ForeignKeyConstraint(["key_id", "region"], ["regional_key.key_id", "regional_key.region"]),
    one_of("expiration_model", ExpirationModel),
)

token_object: Final = Table(
    "token_object",
    meta,
    Column("token_id", Text, ForeignKey("token.id"), primary_key=True),
    Column("cka_id", LargeBinary, CheckConstraint("length(cka_id) = 16", name="cka_id"), primary_key=True),
    Column("material", Integer, ForeignKey("material.id"), index=True),
    Column("purpose", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    one_of("purpose", ObjectPurpose),
    one_of("status", ObjectStatus),
)

wrapping_key: Final = Table(
    "wrapping_key",
    meta,
    Column("token_id", Text, primary_key=True),
    Column("cka_id", LargeBinary, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("valid_to", Instant, nullable=False),
    Column("used_at", Instant),
    Column("made_by", Text),
    ForeignKeyConstraint(["token_id", "cka_id"], ["token_object.token_id", "token_object.cka_id"]),
    ForeignKeyConstraint(["key_id", "region"], ["regional_key.key_id", "regional_key.region"]),
    Index("ix_wrapping_key_key_id", "key_id", "region"),
)
"""Details of a token object of purpose WRAPPING_KEY; ``made_by`` is the requesting principal's ARN. Removed with the
object."""

orphan: Final = Table(
    "orphan",
    meta,
    Column("token_id", Text, ForeignKey("token.id"), primary_key=True),
    Column("cka_id", LargeBinary, primary_key=True),
    Column("first_seen", Instant, nullable=False),
)

alias: Final = Table(
    "alias",
    meta,
    Column("region", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("creation_date", Instant, nullable=False),
    Column("last_updated_date", Instant, nullable=False),
    ForeignKeyConstraint(["key_id", "region"], ["regional_key.key_id", "regional_key.region"]),
    Index("ix_alias_key_id", "key_id", "region"),
)

tag: Final = Table(
    "tag",
    meta,
    Column("key_id", Text, primary_key=True),
    Column("region", Text, primary_key=True),
    Column("tag_key", Text, primary_key=True),
    Column("tag_value", Text, nullable=False),
    ForeignKeyConstraint(["key_id", "region"], ["regional_key.key_id", "regional_key.region"]),
)

user: Final = Table(
    "user",
    meta,
    Column("name", Text, primary_key=True),
    Column("created_at", Instant, nullable=False),
    Column("unique_id", Text),  # NULL for users from before meta_0008: it follows from name and creation date
    Column("path", Text),  # NULL for the root path, so that users without one are sealed as before meta_0008
)

access_key: Final = Table(
    "access_key",
    meta,
    Column("access_key_id", Text, primary_key=True),
    Column("user_name", Text, ForeignKey("user.name"), index=True),
    Column("status", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("key_version", Integer, nullable=False),
    Column("iv", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    one_of("status", AccessKeyStatus),
)
"""Without ``user_name`` it belongs to the account root. ``sealed``: the secret, encrypted by an installation key."""

user_policy: Final = Table(
    "user_policy",
    meta,
    Column("user_name", Text, ForeignKey("user.name"), primary_key=True),
    Column("policy_name", Text, primary_key=True),
    Column("document", Text, nullable=False),
)

user_tag: Final = Table(
    "user_tag",
    meta,
    Column("user_name", Text, ForeignKey("user.name"), primary_key=True),
    Column("tag_key", Text, primary_key=True),
    Column("tag_value", Text, nullable=False),
)

user_group: Final = Table(
    "user_group",
    meta,
    Column("name", Text, primary_key=True),
    Column("created_at", Instant, nullable=False),
)

group_member: Final = Table(
    "group_member",
    meta,
    Column("group_name", Text, ForeignKey("user_group.name"), primary_key=True),
    Column("user_name", Text, ForeignKey("user.name"), primary_key=True, index=True),
)

group_policy: Final = Table(
    "group_policy",
    meta,
    Column("group_name", Text, ForeignKey("user_group.name"), primary_key=True),
    Column("policy_name", Text, primary_key=True),
    Column("document", Text, nullable=False),
)

key_grant: Final = Table(
    "key_grant",
    meta,
    Column("grant_id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("grantee", Text, nullable=False),
    Column("retiring", Text),
    Column("operations", Text, nullable=False),
    *(Column(name, Text) for name in ("context_equals", "context_subset", "source_arn")),
    Column("creation_date", Instant, nullable=False),
    ForeignKeyConstraint(["key_id", "region"], ["regional_key.key_id", "regional_key.region"]),
    Index("ix_key_grant_key_id", "key_id", "region", "grantee"),
    Index("ix_key_grant_retiring", "retiring", "region"),
)
"""``operations``: the API's names, separated by commas; encryption contexts are JSON objects."""

# AUTOINCREMENT: an epoch is never reused, even after the newest rows were removed.
change_log: Final = Table(
    "change_log",
    meta,
    Column("epoch", WIDE, primary_key=True),
    Column("region", Text, nullable=False),
    Column("subject", Text, nullable=False, index=True),
    sqlite_autoincrement=True,
)

row_seal: Final = Table(
    "row_seal",
    meta,
    Column("subject", Text, primary_key=True),
    Column("epoch", WIDE, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""The seal over all rows of a subject (a key, an alias, a user …) since an epoch: ``service/runtime/row_seals.py``."""

store_root: Final = Table(
    "store_root",
    meta,
    Column("number", WIDE, primary_key=True, autoincrement=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
)
"""The seal over all sealed rows, after each of the last changes."""

seal_tree: Final = Table(
    "seal_tree",
    meta,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("value", LargeBinary, nullable=False),
)
"""The valid seals as a tree of HMACs: see ``rules/seal_tree.py``."""

schema_announcement: Final = Table(
    "schema_announcement",
    meta,
    Column("revision", Text, primary_key=True),
    Column("works_with", Text, nullable=False),
    Column("content", Text, nullable=False),
)
"""What the schema is at a revision of meta.db or log.db: see ``announcements.py``. Its rows are sealed."""

node: Final = Table(
    "node",
    meta,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("joined_at", Instant, nullable=False),
    Column("drained_at", Instant),
)
"""The nodes that use a database on a server: the id in a data folder, and where it was when it joined. Rows are sealed.
Empty where the databases are files of the data folder."""

audit_outbox: Final = Table(
    "audit_outbox",
    meta,
    Column("id", WIDE, primary_key=True),
    Column("lane", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
"""Audit records that were committed with their changes, until the audit log has them."""

audit_head: Final = Table(
    "audit_head",
    meta,
    Column("node_id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("acceptance", WIDE, nullable=False),
    Column("sequence", WIDE, nullable=False),
    Column("segment", Integer, nullable=False),
    Column("hash", Text, nullable=False),
    Column("published_at", WIDE, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""The end of each lane of each node's audit log: see ``audit_heads.py``. ``published_at``: microseconds since 1970.
Empty where the databases are files."""
