"""Permissions: policies of users and groups, groups, tags of users, and grants.

Until now every user was allowed everything. So that the upgrade breaks nothing, each existing user gets a policy that
allows everything, under a name that says where it comes from.
"""

import sqlalchemy as sa
from alembic import op

revision = "meta_0004"
down_revision = "meta_0003"

_INSTANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = "from-before-permissions"
_EVERYTHING = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}'


def upgrade() -> None:
    """Make the tables, and keep the permissions of existing users."""
    op.create_table(
        "user_policy",
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("policy_name", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("user_name", "policy_name", name=op.f("pk_user_policy")),
        sa.ForeignKeyConstraint(["user_name"], ["user.name"], name=op.f("fk_user_policy_user_name")),
    )
    op.create_table(
        "user_tag",
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("tag_key", sa.Text, nullable=False),
        sa.Column("tag_value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("user_name", "tag_key", name=op.f("pk_user_tag")),
        sa.ForeignKeyConstraint(["user_name"], ["user.name"], name=op.f("fk_user_tag_user_name")),
    )
    op.create_table(
        "user_group",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_user_group")),
    )
    op.create_table(
        "group_member",
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("group_name", "user_name", name=op.f("pk_group_member")),
        sa.ForeignKeyConstraint(["group_name"], ["user_group.name"], name=op.f("fk_group_member_group_name")),
        sa.ForeignKeyConstraint(["user_name"], ["user.name"], name=op.f("fk_group_member_user_name")),
    )
    op.create_index("ix_group_member_user_name", "group_member", ["user_name"])
    op.create_table(
        "group_policy",
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("policy_name", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("group_name", "policy_name", name=op.f("pk_group_policy")),
        sa.ForeignKeyConstraint(["group_name"], ["user_group.name"], name=op.f("fk_group_policy_group_name")),
    )
    op.create_table(
        "key_grant",
        sa.Column("grant_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("grantee", sa.Text, nullable=False),
        sa.Column("retiring", sa.Text),
        sa.Column("operations", sa.Text, nullable=False),
        sa.Column("context_equals", sa.Text),
        sa.Column("context_subset", sa.Text),
        sa.Column("creation_date", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("grant_id", name=op.f("pk_key_grant")),
        sa.ForeignKeyConstraint(
            ["key_id", "region"], ["regional_key.key_id", "regional_key.region"], name=op.f("fk_key_grant_key_id")
        ),
    )
    op.create_index("ix_key_grant_key_id", "key_grant", ["key_id", "region", "grantee"])
    op.create_index("ix_key_grant_retiring", "key_grant", ["retiring", "region"])
    user = sa.table("user", sa.column("name", sa.Text))
    user_policy = sa.table(
        "user_policy", *(sa.column(each, sa.Text) for each in ("user_name", "policy_name", "document"))
    )
    rows = sa.select(user.c.name, sa.literal(_NAME), sa.literal(_EVERYTHING))
    op.execute(user_policy.insert().from_select(["user_name", "policy_name", "document"], rows))
