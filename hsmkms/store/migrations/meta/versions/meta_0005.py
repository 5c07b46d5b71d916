"""Multi-Region keys: which region has the primary key."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0005"
down_revision = "meta_0004"


def upgrade() -> None:
    """Add the column; no key was a multi-Region key before it."""
    op.add_column("key", sa.Column("primary_region", sa.Text))
