"""Claim and completion change nothing of `jobs` that is in an index, so that they are HOT updates.

The table is written anew, at its new fill factor, and nobody reads or writes it meanwhile.
"""

import sqlalchemy as sa
from alembic import op

from millrace_database.migrations.table_locks import lock_tables
from millrace_queue.schema import VERSION_2

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("queue", "jobs")
    for statement in VERSION_2:
        op.execute(statement)
    _release_status()
    _tune_storage()
    _add_outcome()
    _index_outcome()


def _release_status() -> None:
    # An older release that runs beside this one gives the same lists without this index, only more slowly.
    op.drop_index("jobs_by_org_status", "jobs")


def _tune_storage() -> None:
    op.execute(
        """
        ALTER TABLE jobs SET (
            fillfactor = 45,
            autovacuum_vacuum_scale_factor = 0.02,
            autovacuum_vacuum_threshold = 5000,
            autovacuum_vacuum_insert_scale_factor = 0.05,
            autovacuum_analyze_scale_factor = 0.02,
            autovacuum_analyze_threshold = 1000,
            vacuum_truncate = off
        )
        """
    )


def _add_outcome() -> None:
    # Generated, so that they are right also of what an older release writes. Postgres has to write the table anew for
    # them, once for both; plain columns could be added without that, but nobody would keep them.
    op.execute(
        """
        ALTER TABLE jobs
            ADD COLUMN outcome text GENERATED ALWAYS AS (
                CASE WHEN status IN ('failed', 'cancelled') THEN status END
            ) STORED,
            ADD COLUMN final_error_code text GENERATED ALWAYS AS (
                CASE WHEN status IN ('failed', 'cancelled') THEN error_code END
            ) STORED
        """
    )


def _index_outcome() -> None:
    without_success = sa.text("outcome IS NOT NULL")
    op.create_index(
        "jobs_by_org_outcome",
        "jobs",
        ["org_id", "outcome", sa.text("job_id DESC")],
        postgresql_where=without_success,
    )
    op.create_index(
        "jobs_by_outcome", "jobs", ["outcome", sa.text("job_id DESC")], postgresql_where=without_success
    )
    with_error = sa.text("final_error_code IS NOT NULL")
    op.create_index(
        "jobs_by_org_error",
        "jobs",
        ["org_id", "final_error_code", sa.text("job_id DESC")],
        postgresql_where=with_error,
    )
    op.create_index(
        "jobs_by_error", "jobs", ["final_error_code", sa.text("job_id DESC")], postgresql_where=with_error
    )
    # Until then the planner would know nothing of the new columns.
    op.execute("ANALYZE jobs")
