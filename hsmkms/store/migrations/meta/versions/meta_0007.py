"""Seals over the deciding rows. They are computed when the installation is next opened, which needs its token."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0007"
down_revision = "meta_0006"


def upgrade() -> None:
    """Make the tables, and an index to find the last change of a subject."""
    op.create_table(
        "row_seal",
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_row_seal")),
    )
    op.create_table(
        "store_root",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_store_root")),
    )
    op.create_index(op.f("ix_change_log_subject"), "change_log", ["subject"])
