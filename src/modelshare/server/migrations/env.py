"""Alembic's entry: runs on the connection that `migrations.upgrade` hands in."""

from alembic import context

from modelshare.server.migrations.tables import is_ours, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_server_default=True,
    include_name=is_ours,
)
with context.begin_transaction():
    context.run_migrations()
