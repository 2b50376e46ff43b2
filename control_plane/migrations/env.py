"""Alembic's environment: migrates the connection that `control_plane.migrate` hands over, in its transaction.

All steps share that one transaction, on SQLite too (`transactional_ddl`): a database is migrated whole or not at all.
"""

from __future__ import annotations

from alembic import context

from control_plane.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
