"""What a browser's last form can be taken back with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("web_sessions", sa.Column("undo", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("web_sessions", "undo")
