"""The principal that asked for a wrapping key."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0008"
down_revision = "meta_0007"


def upgrade() -> None:
    """Add the column."""
    op.add_column("wrapping_key", sa.Column("made_by", sa.Text))
