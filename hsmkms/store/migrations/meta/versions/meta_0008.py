"""The tree over the row seals; users' ids and paths; principals of wrapping keys and grants; state of own keys.

The tree is built by the next process that opens the token. Existing rows keep the new columns empty: filled, they would
no longer match their seals.
"""

import sqlalchemy as sa
from alembic import op

revision = "meta_0008"
down_revision = "meta_0007"


def upgrade() -> None:
    """Make the table, and add the columns."""
    op.create_table(
        "seal_tree",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_seal_tree")),
    )
    op.add_column("user", sa.Column("unique_id", sa.Text, nullable=True))
    op.add_column("user", sa.Column("path", sa.Text, nullable=True))
    op.add_column("key_grant", sa.Column("source_arn", sa.Text, nullable=True))
    op.add_column("wrapping_key", sa.Column("made_by", sa.Text, nullable=True))
    op.add_column("installation_key", sa.Column("made_at", sa.Integer, nullable=True))
    op.add_column("installation_key", sa.Column("challenge", sa.LargeBinary, nullable=True))
    op.add_column("installation_key", sa.Column("response", sa.LargeBinary, nullable=True))
