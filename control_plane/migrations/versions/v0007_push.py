"""Push: credentials, jobs with their slices, the last push to each device, and when its token was taken away."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("devices", sa.Column("push_retired_at", _TIME, nullable=True))
    op.create_table(
        "push_credentials",
        sa.Column("environment_id", sa.String(length=32), nullable=False),
        sa.Column("service", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=True),
        sa.Column("actor_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["actor_id"], ["users.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("environment_id", "service"),
    )
    op.create_table(
        "push_jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("environment_id", sa.String(length=32), nullable=False),
        sa.Column("model_id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("deployment_id", sa.String(length=32), nullable=True),
        sa.Column("sandbox", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=True),
        sa.Column("position", sa.String(length=64), nullable=True),
        sa.Column("resume_at", _TIME, nullable=True),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("targeted", "accepted", "gone", "refused", "unknown", "spared")
        ),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("actor_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        *(sa.Column(name, _TIME, nullable=True) for name in ("claimed_at", "started_at", "finished_at")),
        sa.ForeignKeyConstraint(["actor_id"], ["users.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_push_jobs_model_id"), "push_jobs", ["model_id"], unique=False)
    op.create_index(op.f("ix_push_jobs_state"), "push_jobs", ["state"], unique=False)
    op.create_index("push_jobs_by_environment", "push_jobs", ["environment_id", "created_at"], unique=False)
    op.create_table(
        "push_slices",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("after", sa.String(length=64), nullable=False),
        sa.Column("last", sa.String(length=64), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("alive_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["push_jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "after"),
    )
    op.create_table(
        "device_pushes",
        sa.Column("environment_id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("sent_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["push_jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("environment_id", "device_id"),
    )
    op.create_index(op.f("ix_device_pushes_job_id"), "device_pushes", ["job_id"], unique=False)


def downgrade() -> None:
    for table in ("device_pushes", "push_slices", "push_jobs", "push_credentials"):
        op.drop_table(table)
    op.drop_column("devices", "push_retired_at")
