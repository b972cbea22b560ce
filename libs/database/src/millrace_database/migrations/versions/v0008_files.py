"""Files that go: temporary, deleted, of jobs; uploads on their way; what organisations take up."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID

from millrace_database.migrations.table_locks import lock_tables

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = TIMESTAMP(timezone=True)
_NOW = sa.text("now()")
_NEWEST_FIRST = sa.text("file_id DESC")


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("files")
    _extend_files()
    _create_file_uploads()
    _create_file_removals()
    _create_file_usage()


def _extend_files() -> None:
    op.add_column("files", sa.Column("bucket", sa.Text, nullable=False, server_default=""))
    op.add_column("files", sa.Column("state", sa.Text, nullable=False, server_default="persistent"))
    op.add_column("files", sa.Column("expires_at", _TIME))
    op.add_column("files", sa.Column("deleted_at", _TIME))
    op.create_check_constraint("state", "files", "state IN ('temporary', 'persistent', 'with_job')")
    op.create_check_constraint(
        "expires_at",
        "files",
        "(state <> 'temporary' AND deleted_at IS NULL) OR expires_at IS NOT NULL",
    )
    op.create_check_constraint("with_job", "files", "state <> 'with_job' OR job_id IS NOT NULL")
    op.create_index("files_by_org_creator", "files", ["org_id", "created_by", _NEWEST_FIRST])
    op.create_index("files_by_org_type", "files", ["org_id", "content_type", _NEWEST_FIRST])
    op.create_index("files_by_org_name", "files", ["org_id", sa.text("name text_pattern_ops"), _NEWEST_FIRST])
    op.create_index(
        "files_by_org_state",
        "files",
        ["org_id", "state", _NEWEST_FIRST],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "files_by_org_deleted",
        "files",
        ["org_id", _NEWEST_FIRST],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "files_by_job", "files", ["job_id", _NEWEST_FIRST], postgresql_where=sa.text("job_id IS NOT NULL")
    )
    op.create_index(
        "files_expiring", "files", ["expires_at"], postgresql_where=sa.text("expires_at IS NOT NULL")
    )


def _create_file_uploads() -> None:
    op.create_table(
        "file_uploads",
        sa.Column("upload_id", UUID, primary_key=True),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("sha256", sa.Text),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("bucket", sa.Text, nullable=False, server_default=""),
        sa.Column("object_key", sa.Text, nullable=False, unique=True),
        sa.Column("created_by", sa.Text, nullable=False, server_default=""),
        sa.Column("temporary", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("file_id", UUID),
        sa.CheckConstraint("kind IN ('stream', 'presigned')", name="kind"),
        sa.CheckConstraint("size_bytes >= 0", name="size_bytes"),
    )
    op.create_index(
        "file_uploads_by_org",
        "file_uploads",
        ["org_id"],
        postgresql_where=sa.text("kind = 'presigned' AND file_id IS NULL"),
    )
    op.create_index("file_uploads_expiring", "file_uploads", ["expires_at"])


def _create_file_removals() -> None:
    op.create_table(
        "file_removals",
        sa.Column("object_key", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("bucket", sa.Text, primary_key=True, server_default=""),
        sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("requested_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("due_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("file_removals_due", "file_removals", ["due_at"])


def _create_file_usage() -> None:
    op.create_table(
        "file_usage",
        sa.Column("org_id", sa.Text, primary_key=True),
        sa.Column("total_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("files", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("max_total_bytes", sa.BigInteger),
        sa.Column("max_files", sa.BigInteger),
        sa.Column("max_file_bytes", sa.BigInteger),
        sa.CheckConstraint("max_total_bytes >= 0 AND max_files >= 0 AND max_file_bytes >= 0", name="limits"),
        postgresql_with={"fillfactor": 50},
    )
    # What older releases add while both run side by side is counted by the daily maintenance.
    op.execute(
        "INSERT INTO file_usage (org_id, total_bytes, files) "
        "SELECT org_id, sum(size_bytes), count(*) FROM files GROUP BY org_id"
    )
