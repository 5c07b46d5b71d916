"""The unique id of a user, which no later user of the same name has; his path; the resource that a grant is for."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0008"
down_revision = "meta_0007"


def upgrade() -> None:
    """Add the columns. They stay empty for the rows that are there: what is filled would not be as it was sealed."""
    op.add_column("user", sa.Column("unique_id", sa.Text, nullable=True))
    op.add_column("user", sa.Column("path", sa.Text, nullable=True))
    op.add_column("key_grant", sa.Column("source_arn", sa.Text, nullable=True))
