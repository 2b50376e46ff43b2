"""One file per migration, numbered; a migration that was released is never changed."""
