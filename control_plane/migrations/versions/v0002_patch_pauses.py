"""Let failed patches wait, and tell the interface of what deployments offered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_DEPLOYMENTS = sa.table("deployments", sa.column("id"), sa.column("model_id"), sa.column("offers", sa.JSON()))
_VERSIONS = sa.table("model_versions", sa.column("model_id"), sa.column("version"), sa.column("interface"))


def upgrade() -> None:
    op.add_column("patch_jobs", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("patch_jobs", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    # A version that was deleted meanwhile has taken its interface along.
    rows = op.get_bind().execute(sa.select(_VERSIONS.c.model_id, _VERSIONS.c.version, _VERSIONS.c.interface))
    interfaces = {(model, version): interface for model, version, interface in rows}
    for deployment, model, offers in op.get_bind().execute(sa.select(_DEPLOYMENTS)).all():
        known = [offer | {"interface": interfaces.get((model, offer["version"]))} for offer in offers]
        op.execute(_DEPLOYMENTS.update().where(_DEPLOYMENTS.c.id == deployment).values(offers=known))


def downgrade() -> None:
    op.drop_column("patch_jobs", "retry_at")
    op.drop_column("patch_jobs", "failures")
