"""The expired files of an organisation are found when it needs room."""

import sqlalchemy as sa
from alembic import op

from millrace_database.migrations.table_locks import lock_tables

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("files")
    op.create_index(
        "files_by_org_expiring",
        "files",
        ["org_id", "expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL AND deleted_at IS NULL"),
    )
