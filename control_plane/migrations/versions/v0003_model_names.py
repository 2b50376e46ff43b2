"""Record the names that models have had."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_names",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("application_id", sa.String(length=32), nullable=False),
        sa.Column("model_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("first_version", sa.Integer(), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["application_id"], ["applications.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_model_names_application_id"), "model_names", ["application_id"], unique=False)
    op.create_index(op.f("ix_model_names_model_id"), "model_names", ["model_id"], unique=False)
    # Names that were given up before this are not known. A model's id serves as that of its name as well.
    op.execute(
        "INSERT INTO model_names (id, application_id, model_id, name, first_version, created_at)"
        " SELECT id, application_id, id, name, 1, created_at FROM models"
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_model_names_model_id"), table_name="model_names")
    op.drop_index(op.f("ix_model_names_application_id"), table_name="model_names")
    op.drop_table("model_names")
