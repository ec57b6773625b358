"""What Alembic runs: our connection, our version table."""

from alembic import context

from os_interface_ext.db import tables

context.configure(
    connection=context.config.attributes['connection'],
    version_table=tables.VERSION_TABLE,
    target_metadata=tables.metadata,
)
with context.begin_transaction():
    context.run_migrations()
