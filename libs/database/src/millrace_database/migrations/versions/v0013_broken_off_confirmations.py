"""What a confirmation of an upload has moved is known as that of the upload."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

from millrace_database.migrations.table_locks import lock_tables

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("file_uploads")
    op.add_column("file_uploads", sa.Column("confirms", UUID))
