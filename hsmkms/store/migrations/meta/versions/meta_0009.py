"""Announcements of schemas, so that programs of this revision work beside those of the next one; nodes of a server.

Rows are sealed in another form from here on. That is done when the token is next opened, as `hsmkms migrate` does.
"""

import sqlalchemy as sa
from alembic import op

revision = "meta_0009"
down_revision = "meta_0008"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "schema_announcement",
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("works_with", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_schema_announcement")),
    )
    op.create_table(
        "node",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("joined_at", sa.Integer, nullable=False),
        sa.Column("drained_at", sa.Integer),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "node_process",
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("tokens", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node_id", "name", name=op.f("pk_node_process")),
    )
    op.create_table(
        "pin_notice",
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("noted_at", sa.Integer, nullable=False),
        sa.Column("by_node", sa.Text, nullable=False),
        sa.Column("changed", sa.Boolean, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("alone", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("node_id", "serial", name=op.f("pk_pin_notice")),
    )
    op.create_table(
        "audit_head",
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("acceptance", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("segment", sa.Integer, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("published_at", sa.Integer, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("node_id", "lane", name=op.f("pk_audit_head")),
    )
