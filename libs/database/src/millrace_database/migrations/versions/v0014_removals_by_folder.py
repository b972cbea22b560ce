"""Objects that nobody has tried to remove yet are taken folder by folder."""

import sqlalchemy as sa
from alembic import op

from millrace_database.migrations.table_locks import lock_tables

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("file_removals")
    op.create_index(
        "file_removals_new", "file_removals", ["object_key"], postgresql_where=sa.text("attempts = 0")
    )
