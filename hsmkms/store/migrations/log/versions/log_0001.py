"""The count of encryptions per material."""

import sqlalchemy as sa
from alembic import op

revision = "log_0001"
down_revision = None

_WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "encryption_count",
        sa.Column("material_id", sa.Text, nullable=False),
        sa.Column("reserved", _WIDE, nullable=False),
        sa.PrimaryKeyConstraint("material_id", name=op.f("pk_encryption_count")),
        sa.CheckConstraint("reserved >= 0", name=op.f("ck_encryption_count_reserved")),
    )
