"""Files are found by their media type, whatever its case and parameters."""

import sqlalchemy as sa
from alembic import op

from millrace_database.migrations.table_locks import lock_tables

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("files")
    media_type = sa.text("lower(rtrim(split_part(content_type, ';', 1)))")
    op.create_index("files_by_org_media_type", "files", ["org_id", media_type, sa.text("file_id DESC")])
