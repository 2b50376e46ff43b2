"""Accounts: what a token may do at most, from where something was done, a second factor, and OpenID Connect."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("audit_log", sa.Column("client", sa.String(length=64), nullable=True))
    op.add_column("audit_log", sa.Column("via", sa.String(length=106), nullable=True))
    with op.batch_alter_table("api_tokens") as table:
        table.add_column(sa.Column("organization_id", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("role", sa.String(length=16), nullable=True))
        table.add_column(sa.Column("expires_at", _TIME, nullable=True))
        table.create_foreign_key(
            "fk_api_tokens_organization_id", "organizations", ["organization_id"], ["id"], ondelete="CASCADE"
        )
        table.create_index(op.f("ix_api_tokens_organization_id"), ["organization_id"], unique=False)

    op.add_column("users", sa.Column("unproven", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("web_sessions", sa.Column("awaits_code", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "second_factors",
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("confirmed_at", _TIME, nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("code_hash"),
    )
    op.create_index(op.f("ix_recovery_codes_user_id"), "recovery_codes", ["user_id"], unique=False)
    op.create_table(
        "identities",
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("issuer", "subject"),
    )
    op.create_index(op.f("ix_identities_user_id"), "identities", ["user_id"], unique=False)


def downgrade() -> None:
    for table in ("identities", "recovery_codes", "second_factors"):
        op.drop_table(table)
    op.drop_column("web_sessions", "awaits_code")
    op.drop_column("users", "unproven")
    with op.batch_alter_table("api_tokens") as tokens:
        tokens.drop_index(op.f("ix_api_tokens_organization_id"))
        tokens.drop_constraint("fk_api_tokens_organization_id", type_="foreignkey")
        for column in ("expires_at", "role", "organization_id"):
            tokens.drop_column(column)
    op.drop_column("audit_log", "via")
    op.drop_column("audit_log", "client")
