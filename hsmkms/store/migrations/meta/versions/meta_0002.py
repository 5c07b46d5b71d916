"""What the life cycle needs: the setting of automatic rotation, wrapping keys, facts about imported material."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0002"
down_revision = "meta_0001"

_INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, and add the columns."""
    op.create_table(
        "rotation",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("anchor", _INSTANT, nullable=False),
        sa.Column("period_days", sa.Integer),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_rotation")),
        sa.ForeignKeyConstraint(["key_id"], ["key.key_id"], name=op.f("fk_rotation_key_id")),
        sa.CheckConstraint("period_days > 0", name=op.f("ck_rotation_period_days")),
    )
    op.create_table(
        "wrapping_key",
        sa.Column("token_id", sa.Text, nullable=False),
        sa.Column("cka_id", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("valid_to", _INSTANT, nullable=False),
        sa.Column("used_at", _INSTANT),
        sa.PrimaryKeyConstraint("token_id", "cka_id", name=op.f("pk_wrapping_key")),
        sa.ForeignKeyConstraint(
            ["token_id", "cka_id"],
            ["token_object.token_id", "token_object.cka_id"],
            name=op.f("fk_wrapping_key_token_id"),
        ),
        sa.ForeignKeyConstraint(
            ["key_id", "region"],
            ["regional_key.key_id", "regional_key.region"],
            name=op.f("fk_wrapping_key_key_id"),
        ),
    )
    op.create_index("ix_wrapping_key_key_id", "wrapping_key", ["key_id", "region"])
    # Plain ALTER TABLE: the table and its rows are not copied.
    op.add_column("material", sa.Column("description", sa.Text))
    op.add_column("material", sa.Column("host_unwrapped", sa.Boolean, nullable=False, server_default="0"))
