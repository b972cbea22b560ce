"""The first tables: the queue's, and those of jobs, files, datasets and schedules."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSON, JSONB, TIMESTAMP, UUID

from millrace_queue.schema import VERSION_1

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = TIMESTAMP(timezone=True)
_NOW = sa.text("now()")
_EMPTY_OBJECT = sa.text("'{}'")


def upgrade() -> None:
    """Apply the migration."""
    for statement in VERSION_1:
        op.execute(statement)
    _create_jobs()
    _create_job_types()
    _create_files()
    _create_datasets()
    _create_dataset_imports()
    _create_dataset_rows()
    _create_scheduled_jobs()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("job_id", UUID, primary_key=True),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("progress", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
        sa.Column("total_items", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("processed_items", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("input", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
        sa.Column("output", JSONB),
        sa.Column("metadata", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("error_retryable", sa.Boolean),
        sa.Column("created_by", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("run_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("started_at", _TIME),
        sa.Column("completed_at", _TIME),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("schedule_id", UUID),
        sa.Column("request_id", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'cancelling', 'completed', 'failed', 'cancelled')",
            name=op.f("jobs_status_check"),
        ),
        sa.CheckConstraint(
            "(status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)",
            name=op.f("jobs_completed_at_when_final_check"),
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("jobs_progress_check")),
        sa.CheckConstraint("priority BETWEEN -100 AND 100", name=op.f("jobs_priority_check")),
        sa.CheckConstraint("attempt >= 0 AND max_attempts >= 1", name=op.f("jobs_attempts_check")),
        sa.Index(
            "jobs_request_id",
            "org_id",
            "request_id",
            unique=True,
            postgresql_where=sa.text("request_id IS NOT NULL"),
        ),
        sa.Index("jobs_by_org", "org_id", sa.text("job_id DESC")),
        sa.Index("jobs_by_org_status", "org_id", "status", sa.text("job_id DESC")),
        sa.Index("jobs_by_org_type", "org_id", "type", sa.text("job_id DESC")),
        sa.Index("jobs_by_org_creator", "org_id", "created_by", sa.text("job_id DESC")),
        sa.Index(
            "jobs_by_schedule",
            "schedule_id",
            sa.text("job_id DESC"),
            postgresql_where=sa.text("schedule_id IS NOT NULL"),
        ),
        sa.Index(
            "jobs_by_metadata",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
            postgresql_where=sa.text("metadata <> '{}'"),
        ),
        postgresql_with={"fillfactor": 70},
    )


def _create_job_types() -> None:
    op.create_table(
        "job_types",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("input_schema", JSONB, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("timeout", INTERVAL, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("published_at", _TIME, nullable=False, server_default=_NOW),
        sa.CheckConstraint("max_attempts >= 1 AND concurrency >= 1", name=op.f("job_types_limits_check")),
    )


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("file_id", UUID, primary_key=True),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("object_key", sa.Text, nullable=False, unique=True),
        sa.Column("created_by", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("job_id", UUID),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("files_size_bytes_check")),
        sa.Index("files_by_org", "org_id", sa.text("file_id DESC")),
    )


def _create_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("dataset_id", UUID, primary_key=True),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Index("datasets_by_name", "org_id", "name", unique=True),
    )


def _create_dataset_imports() -> None:
    op.create_table(
        "dataset_imports",
        sa.Column("job_id", UUID, primary_key=True),
        sa.Column(
            "dataset_id", UUID, sa.ForeignKey("datasets.dataset_id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("rows_read", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("rows_loaded", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("rows_failed", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("errors", JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("columns", ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("completed_at", _TIME),
        sa.CheckConstraint(
            "rows_loaded >= 0 AND rows_failed >= 0 AND rows_read >= 0",
            name=op.f("dataset_imports_counts_check"),
        ),
        sa.Index("dataset_imports_by_dataset", "dataset_id"),
    )


def _create_dataset_rows() -> None:
    op.create_table(
        "dataset_rows",
        sa.Column(
            "dataset_id", UUID, sa.ForeignKey("datasets.dataset_id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("job_id", UUID, primary_key=True),
        sa.Column("row_number", sa.BigInteger, primary_key=True),
        sa.Column("data", JSON, nullable=False),
    )


def _create_scheduled_jobs() -> None:
    op.create_table(
        "scheduled_jobs",
        sa.Column("schedule_id", UUID, primary_key=True),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("input", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
        sa.Column("metadata", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
        sa.Column("recurrence", JSONB, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("start_at", _TIME),
        sa.Column("end_at", _TIME),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("pause_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("next_run_at", _TIME),
        sa.Column("last_run_at", _TIME),
        sa.Column("last_job_id", UUID),
        sa.Column("consecutive_failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("reserved_until", _TIME),
        sa.Column("created_by", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("request_id", sa.Text),
        sa.Index("scheduled_jobs_by_org", "org_id", sa.text("schedule_id DESC")),
        sa.Index(
            "scheduled_jobs_due",
            "next_run_at",
            postgresql_where=sa.text("NOT paused AND next_run_at IS NOT NULL"),
        ),
        sa.Index(
            "scheduled_jobs_request_id",
            "org_id",
            "request_id",
            unique=True,
            postgresql_where=sa.text("request_id IS NOT NULL"),
        ),
    )
