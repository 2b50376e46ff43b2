"""Alembic's migrations of the database. `control_plane.migrate` runs them."""
