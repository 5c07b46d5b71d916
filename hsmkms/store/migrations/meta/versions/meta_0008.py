"""The unique id of a user, which no later user of the same name has."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0008"
down_revision = "meta_0007"


def upgrade() -> None:
    """Add the column. It stays empty for the users that are there: what is filled would not be as it was sealed."""
    op.add_column("user", sa.Column("unique_id", sa.Text, nullable=True))
