"""The open uploads of an organisation are listed, all of them or those of one creator."""

import sqlalchemy as sa
from alembic import op

from millrace_database.migrations.table_locks import lock_tables

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("file_uploads")
    newest = sa.text("upload_id DESC")
    presigned = sa.text("kind = 'presigned' AND file_id IS NULL")
    op.create_index(
        "file_uploads_by_org_newest", "file_uploads", ["org_id", newest], postgresql_where=presigned
    )
    op.create_index(
        "file_uploads_by_org_creator",
        "file_uploads",
        ["org_id", "created_by", newest],
        postgresql_where=presigned,
    )
    # An older release that runs beside this one counts by the first of these.
    op.drop_index("file_uploads_by_org", "file_uploads")
