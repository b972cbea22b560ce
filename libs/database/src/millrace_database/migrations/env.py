"""What Alembic runs: the migrations, on the connection that `millrace_database.migrate` hands over."""

from alembic import context

from millrace_database.metadata import metadata
from millrace_database.schema_version import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transaction_per_migration=False,
)
context.run_migrations()
