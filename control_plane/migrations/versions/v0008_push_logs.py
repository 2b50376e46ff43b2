"""Keep what became of each device of the last pushes, and what pushes brought about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_OUTCOMES = ("accepted", "gone", "refused", "unknown")
_STEPS = ("checked", "downloaded", "activated")
_COUNTS = ("devices", "counted", *_STEPS, *(f"{step}_before" for step in _STEPS))


def upgrade() -> None:
    op.add_column("push_jobs", sa.Column("log_forgotten_at", _TIME, nullable=True))
    # What there was is known by its counts alone.
    op.execute(sa.text("UPDATE push_jobs SET log_forgotten_at = created_at"))
    op.create_table(
        "push_logs",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("after", sa.String(length=64), nullable=False),
        sa.Column("last", sa.String(length=64), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _OUTCOMES),
        sa.Column("last_sent_at", _TIME, nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["push_jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "after"),
    )
    op.create_table(
        "push_effects",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _COUNTS),
        sa.Column("until", _TIME, nullable=True),
        sa.Column("asked_at", _TIME, nullable=False),
        sa.Column("ask_again_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["push_jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index(op.f("ix_push_effects_ask_again_at"), "push_effects", ["ask_again_at"], unique=False)


def downgrade() -> None:
    op.drop_table("push_effects")
    op.drop_table("push_logs")
    op.drop_column("push_jobs", "log_forgotten_at")
