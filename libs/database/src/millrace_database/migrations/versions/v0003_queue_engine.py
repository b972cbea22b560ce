"""Fair ranks, limits and unique keys in the queue; options of a job and of a type; attempts kept."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

from millrace_database.migrations.table_locks import lock_tables
from millrace_queue.schema_version_3 import VERSION_3

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("queue", "jobs", "job_types")
    for statement in VERSION_3:
        op.execute(statement)
    op.add_column("jobs", sa.Column("options", JSONB))
    op.add_column("jobs", sa.Column("worker_id", UUID))
    op.add_column("jobs", sa.Column("parent_job_id", UUID))
    op.create_index(
        "jobs_by_parent",
        "jobs",
        ["parent_job_id", sa.text("job_id DESC")],
        postgresql_where=sa.text("parent_job_id IS NOT NULL"),
    )
    op.add_column("job_types", sa.Column("options", JSONB, nullable=False, server_default=sa.text("'{}'")))
    op.add_column("job_types", sa.Column("overrides", JSONB, nullable=False, server_default=sa.text("'{}'")))
    _create_job_attempts()


def _create_job_attempts() -> None:
    op.create_table(
        "job_attempts",
        sa.Column("job_id", UUID, primary_key=True),
        sa.Column("fence", sa.BigInteger, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("ended_at", _TIME, nullable=False, server_default=sa.text("now()")),
        sa.Column("worker_id", UUID),
        sa.Column("worker_name", sa.Text, nullable=False, server_default=""),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.CheckConstraint(
            "outcome IN ('failed', 'timed_out', 'worker_lost', 'lease_lost', 'handed_back', 'snoozed', 'cancelled')",
            name=op.f("job_attempts_outcome_check"),
        ),
    )
