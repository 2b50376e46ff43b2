"""Accounts: what a token may do at most, and from where something was done."""

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


def downgrade() -> None:
    with op.batch_alter_table("api_tokens") as table:
        table.drop_index(op.f("ix_api_tokens_organization_id"))
        table.drop_constraint("fk_api_tokens_organization_id", type_="foreignkey")
        for column in ("expires_at", "role", "organization_id"):
            table.drop_column(column)
    op.drop_column("audit_log", "via")
    op.drop_column("audit_log", "client")
