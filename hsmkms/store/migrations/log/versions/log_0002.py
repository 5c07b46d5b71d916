"""The last use of each key, and the lease of the sweeper."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "log_0002"
down_revision = "log_0001"

_INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables; uses are recorded from now on."""
    op.create_table(
        "last_use",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("used_at", _INSTANT, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "region", name=op.f("pk_last_use")),
        _one_of(
            *("Decrypt", "DeriveSharedSecret", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair"),
            *("GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", "GenerateMac", "ReEncrypt"),
            *("Sign", "Verify", "VerifyMac", "Encapsulate", "Decapsulate"),
        ),
    )
    tracking = op.create_table(
        "use_tracking",
        sa.Column("only", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("since", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("only", name=op.f("pk_use_tracking")),
        sa.CheckConstraint("only = 1", name=op.f("ck_use_tracking_only")),
    )
    since = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    op.execute(tracking.insert().values(only=1, since=since))
    op.create_table(
        "sweeper",
        sa.Column("only", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("only", name=op.f("pk_sweeper")),
        sa.CheckConstraint("only = 1", name=op.f("ck_sweeper_only")),
    )


def _one_of(*words: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"operation IN ({listed})", name=op.f("ck_last_use_operation"))
