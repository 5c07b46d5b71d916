"""The last use of each access key."""

import sqlalchemy as sa
from alembic import op

revision = "log_0003"
down_revision = "log_0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "access_key_use",
        sa.Column("access_key_id", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("used_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("access_key_id", name=op.f("pk_access_key_use")),
    )
