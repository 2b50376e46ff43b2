"""Record which environments want which patches, why the others are not made, and which encodings were tried."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# What a release listed at most until now; the first look at a plan chooses anew.
_LISTED = 8

_TIME = sa.DateTime(timezone=True)
_JOBS = sa.table(
    "patch_jobs",
    *(sa.column(name) for name in ("id", "state", "code", "reason")),
    sa.column("tried", sa.JSON()),
)
_RELEASES = sa.table("releases", *(sa.column(name) for name in ("environment_id", "model_id", "model_version_id")))
_VERSIONS = sa.table("model_versions", *(sa.column(name) for name in ("id", "model_id", "version", "artifact_sha256")))
_ENCODINGS = sa.table("artifact_encodings", *(sa.column(name) for name in ("artifact_sha256", "base_sha256")))
_WISHES = sa.table(
    "patch_wishes",
    *(sa.column(name) for name in ("environment_id", "model_id", "target_sha256", "base_sha256", "rank")),
    sa.column("since", _TIME),
)
_PLANS = sa.table(
    "patch_plans",
    *(sa.column(name) for name in ("environment_id", "model_id", "active_devices")),
    sa.column("look_at", _TIME),
    sa.column("held", sa.JSON()),
)


def upgrade() -> None:
    op.add_column("patch_jobs", sa.Column("code", sa.String(length=32), nullable=True))
    op.add_column("patch_jobs", sa.Column("tried", sa.JSON(), nullable=False, server_default="[]"))
    op.create_index(op.f("ix_patch_jobs_state"), "patch_jobs", ["state"], unique=False)
    op.create_table(
        "patch_wishes",
        sa.Column("environment_id", sa.String(length=32), nullable=False),
        sa.Column("model_id", sa.String(length=32), nullable=False),
        sa.Column("target_sha256", sa.String(length=64), nullable=False),
        sa.Column("base_sha256", sa.String(length=64), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("devices", sa.BigInteger(), nullable=True),
        sa.Column("share", sa.Double(), nullable=True),
        sa.Column("unwanted", sa.String(length=32), nullable=True),
        sa.Column("since", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("environment_id", "model_id", "target_sha256", "base_sha256"),
    )
    op.create_index("patch_wishes_by_pair", "patch_wishes", ["target_sha256", "base_sha256"], unique=False)
    op.create_index(op.f("ix_patch_wishes_model_id"), "patch_wishes", ["model_id"], unique=False)
    op.create_table(
        "patch_plans",
        sa.Column("environment_id", sa.String(length=32), nullable=False),
        sa.Column("model_id", sa.String(length=32), nullable=False),
        sa.Column("look_at", _TIME, nullable=False),
        sa.Column("deployed_at", _TIME, nullable=True),
        sa.Column("asked_at", _TIME, nullable=True),
        sa.Column("active_devices", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("environment_id", "model_id"),
    )
    op.create_index(op.f("ix_patch_plans_look_at"), "patch_plans", ["look_at"], unique=False)
    op.create_index(op.f("ix_patch_plans_model_id"), "patch_plans", ["model_id"], unique=False)
    _name_what_was_tried()
    _want_what_is_listed(datetime.now(UTC))


def downgrade() -> None:
    op.drop_table("patch_plans")
    op.drop_table("patch_wishes")
    op.drop_index(op.f("ix_patch_jobs_state"), table_name="patch_jobs")
    op.drop_column("patch_jobs", "tried")
    op.drop_column("patch_jobs", "code")


def _name_what_was_tried() -> None:
    """Take the word out of the reasons of skipped jobs, and note the one encoding that there was."""
    ended = sa.select(_JOBS.c.id, _JOBS.c.state, _JOBS.c.reason).where(_JOBS.c.state.in_(("built", "skipped")))
    for job, state, reason in op.get_bind().execute(ended).all():
        values: dict[str, Any] = {"tried": ["zstd-prefix"]}
        code, colon, sentence = (reason or "").partition(": ")
        if state == "skipped" and colon:
            values |= {"code": code, "reason": sentence}
        op.execute(_JOBS.update().where(_JOBS.c.id == job).values(values))


def _want_what_is_listed(now: datetime) -> None:
    """Let every environment want the patches that it may list now, until it is looked at, which is at once."""
    bind = op.get_bind()
    offered = bind.execute(
        sa.select(_RELEASES.c.environment_id, _RELEASES.c.model_id, _VERSIONS.c.artifact_sha256)
        .join(_VERSIONS, _VERSIONS.c.id == _RELEASES.c.model_version_id)
        .where(_VERSIONS.c.artifact_sha256.is_not(None))
        .distinct()
    ).all()
    newest = sa.select(
        _VERSIONS.c.model_id, _VERSIONS.c.artifact_sha256.label("artifact"), sa.func.max(_VERSIONS.c.version).label("v")
    ).group_by(_VERSIONS.c.model_id, _VERSIONS.c.artifact_sha256)
    base = newest.subquery()
    patches = bind.execute(
        sa.select(base.c.model_id, _ENCODINGS.c.artifact_sha256, _ENCODINGS.c.base_sha256)
        .join(base, base.c.artifact == _ENCODINGS.c.base_sha256)
        .where(_ENCODINGS.c.base_sha256 != "")
        .order_by(base.c.v.desc())
    ).all()
    bases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for model, target, base_sha256 in patches:
        bases[model, target].append(base_sha256)
    wishes = [
        {"environment_id": environment, "model_id": model, "target_sha256": target, "base_sha256": each, "rank": rank}
        | {"since": now}
        for environment, model, target in offered
        for rank, each in enumerate(dict.fromkeys(bases[model, target][:_LISTED]))
    ]
    plans = [
        {"environment_id": environment, "model_id": model, "active_devices": 0, "look_at": now, "held": []}
        for environment, model in dict.fromkeys((environment, model) for environment, model, _ in offered)
    ]
    for table, rows in ((_WISHES, wishes), (_PLANS, plans)):
        if rows:
            bind.execute(table.insert(), rows)
