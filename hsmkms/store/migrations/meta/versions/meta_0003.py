"""Users and their access keys; the operator's confirmation that the clock is right."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0003"
down_revision = "meta_0002"

_INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, and add the columns."""
    op.add_column("installation", sa.Column("clock_trusted_at", _INSTANT))
    op.add_column("installation", sa.Column("clock_trusted_over", _INSTANT))
    op.create_table(
        "user",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_user")),
    )
    op.create_table(
        "access_key",
        sa.Column("access_key_id", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("iv", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("access_key_id", name=op.f("pk_access_key")),
        sa.ForeignKeyConstraint(["user_name"], ["user.name"], name=op.f("fk_access_key_user_name")),
        sa.CheckConstraint("status IN ('Active', 'Inactive')", name=op.f("ck_access_key_status")),
    )
    op.create_index("ix_access_key_user_name", "access_key", ["user_name"])
