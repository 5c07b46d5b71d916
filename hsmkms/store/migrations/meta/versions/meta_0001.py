"""The first tables: installation, tokens, keys, their materials and objects, aliases, tags, changes."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0001"
down_revision = None

# Instants: microseconds since 1970. Spelt out and never imported, since a released migration must never change.
_INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make all tables."""
    _installation()
    _keys()
    _materials()
    _objects()
    _names()
    _changes()


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _reference(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{table}_{column}"))


def _regional(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["key_id", "region"],
        ["regional_key.key_id", "regional_key.region"],
        name=op.f(f"fk_{table}_key_id"),
    )


def _check(table: str, name: str, rule: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(rule, name=op.f(f"ck_{table}_{name}"))


def _one_of(table: str, column: str, *words: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return _check(table, column, f"{column} IN ({listed})")


def _installation() -> None:
    op.create_table(
        "installation",
        sa.Column("only", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("restored_at", _INSTANT),
        _primary("installation", "only"),
        _check("installation", "only", "only = 1"),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("manufacturer", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("challenge", sa.LargeBinary),
        sa.Column("response", sa.LargeBinary),
        _primary("token", "id"),
        _check("token", "bound", "(challenge IS NULL) = (response IS NULL)"),
    )
    op.create_table(
        "installation_key",
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("token_id", sa.Text, nullable=False),
        sa.Column("cka_id", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        _primary("installation_key", "purpose", "version", "token_id"),
        _reference("installation_key", "token_id", "token.id"),
        _check("installation_key", "cka_id", "length(cka_id) = 16"),
    )


def _keys() -> None:
    op.create_table(
        "key",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("manager", sa.Text, nullable=False),
        sa.Column("multi_region", sa.Boolean, nullable=False),
        sa.Column("creation_date", _INSTANT, nullable=False),
        _primary("key", "key_id"),
        _one_of(
            "key",
            "spec",
            *("RSA_2048", "RSA_3072", "RSA_4096"),
            *("ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"),
            *("SYMMETRIC_DEFAULT", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512"),
            *("ML_DSA_44", "ML_DSA_65", "ML_DSA_87", "ECC_NIST_EDWARDS25519"),
            *("ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"),
        ),
        _one_of(
            "key",
            "usage",
            *("SIGN_VERIFY", "ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT", "ENCAPSULATE_DECAPSULATE"),
        ),
        _one_of("key", "origin", "AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"),
        _one_of("key", "manager", "AWS", "CUSTOMER"),
    )
    op.create_table(
        "regional_key",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("lifecycle", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("creation_date", _INSTANT, nullable=False),
        sa.Column("deletion_date", _INSTANT),
        sa.Column("pending_window_days", sa.Integer),
        sa.Column("version", sa.Integer, nullable=False),
        _primary("regional_key", "key_id", "region"),
        _reference("regional_key", "key_id", "key.key_id"),
        _one_of("regional_key", "lifecycle", "INTENDED", "LIVE", "DELETED"),
        _one_of(
            "regional_key",
            "state",
            *("Creating", "Enabled", "Disabled", "PendingDeletion", "PendingImport"),
            *("PendingReplicaDeletion", "Unavailable", "Updating"),
        ),
    )
    op.create_index("ix_regional_key_region", "regional_key", ["region", "key_id"])


def _materials() -> None:
    op.create_table(
        "material",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("material_id", sa.Text, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("rotation_date", _INSTANT),
        sa.Column("rotation_type", sa.Text),
        _primary("material", "id"),
        _reference("material", "key_id", "key.key_id"),
        sa.UniqueConstraint("material_id", name=op.f("uq_material_material_id")),
        sa.UniqueConstraint("key_id", "sequence", name=op.f("uq_material_key_id")),
        _check("material", "sequence", "sequence >= 1"),
        _one_of(
            "material",
            "state",
            *("NON_CURRENT", "CURRENT", "PENDING_ROTATION", "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"),
        ),
        _one_of("material", "rotation_type", "AUTOMATIC", "ON_DEMAND"),
    )
    op.create_table(
        "material_presence",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("material", sa.Integer, nullable=False),
        sa.Column("present", sa.Boolean, nullable=False),
        sa.Column("expiration_model", sa.Text),
        sa.Column("valid_to", _INSTANT),
        _primary("material_presence", "key_id", "region", "material"),
        _regional("material_presence"),
        _reference("material_presence", "material", "material.id"),
        _one_of("material_presence", "expiration_model", "KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE"),
    )


def _objects() -> None:
    op.create_table(
        "token_object",
        sa.Column("token_id", sa.Text, nullable=False),
        sa.Column("cka_id", sa.LargeBinary, nullable=False),
        sa.Column("material", sa.Integer),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        _primary("token_object", "token_id", "cka_id"),
        _reference("token_object", "token_id", "token.id"),
        _reference("token_object", "material", "material.id"),
        _check("token_object", "cka_id", "length(cka_id) = 16"),
        _one_of("token_object", "purpose", "BACKING_KEY", "WRAPPING_KEY"),
        _one_of("token_object", "status", "INTENDED", "PRESENT", "DESTROYING", "DESTROYED"),
    )
    op.create_index("ix_token_object_material", "token_object", ["material"])
    op.create_table(
        "orphan",
        sa.Column("token_id", sa.Text, nullable=False),
        sa.Column("cka_id", sa.LargeBinary, nullable=False),
        sa.Column("first_seen", _INSTANT, nullable=False),
        _primary("orphan", "token_id", "cka_id"),
        _reference("orphan", "token_id", "token.id"),
    )


def _names() -> None:
    op.create_table(
        "alias",
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("creation_date", _INSTANT, nullable=False),
        sa.Column("last_updated_date", _INSTANT, nullable=False),
        _primary("alias", "region", "name"),
        _regional("alias"),
    )
    op.create_index("ix_alias_key_id", "alias", ["key_id", "region"])
    op.create_table(
        "tag",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("tag_key", sa.Text, nullable=False),
        sa.Column("tag_value", sa.Text, nullable=False),
        _primary("tag", "key_id", "region", "tag_key"),
        _regional("tag"),
    )


def _changes() -> None:
    op.create_table(
        "change_log",
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        _primary("change_log", "epoch"),
        sqlite_autoincrement=True,
    )
