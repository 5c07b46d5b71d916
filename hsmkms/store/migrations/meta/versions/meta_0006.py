"""The outbox of the audit log: records that are committed together with the changes that they describe."""

import sqlalchemy as sa
from alembic import op

revision = "meta_0006"
down_revision = "meta_0005"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "audit_outbox",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_outbox")),
        sqlite_autoincrement=True,
    )
