"""Policies and runs of schedules, and schedules that are declared in code."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

from millrace_database.migrations.table_locks import lock_tables

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = TIMESTAMP(timezone=True)
_NOW = sa.text("now()")
_ZERO = "0"


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("scheduled_jobs")
    _add_columns()
    _create_schedule_runs()
    _create_system_schedules()


def _add_columns() -> None:
    # None of the defaults makes Postgres write the table anew; now() is worked out once for all its rows.
    for column in (
        sa.Column("next_scheduled_time", _TIME),
        sa.Column("jitter_seconds", sa.Integer, nullable=False, server_default=_ZERO),
        sa.Column("overlap_policy", sa.Text, nullable=False, server_default="allow"),
        sa.Column("catch_up_policy", sa.Text, nullable=False, server_default="run_once"),
        sa.Column("catch_up_seconds", sa.Integer),
        sa.Column("max_runs", sa.Integer, nullable=False, server_default=_ZERO),
        sa.Column("pause_after_failed_runs", sa.Integer, nullable=False, server_default=_ZERO),
        sa.Column("delivery", JSONB),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("fired_count", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("missed_count", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("skipped_count", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("watched_since", _TIME, nullable=False, server_default=_NOW),
        sa.Column("deleted_at", _TIME),
    ):
        op.add_column("scheduled_jobs", column)
    op.create_check_constraint(
        "overlap_policy",
        "scheduled_jobs",
        "overlap_policy IN ('allow', 'skip', 'buffer_one', 'cancel_running')",
    )
    op.create_check_constraint(
        "catch_up_policy", "scheduled_jobs", "catch_up_policy IN ('run_once', 'run_all', 'skip')"
    )
    op.create_index(
        "scheduled_jobs_kept",
        "scheduled_jobs",
        ["org_id", sa.text("schedule_id DESC")],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "scheduled_jobs_watched",
        "scheduled_jobs",
        ["schedule_id"],
        postgresql_where=sa.text("NOT paused AND next_run_at IS NOT NULL AND pause_after_failed_runs > 0"),
    )


def _create_schedule_runs() -> None:
    op.create_table(
        "schedule_runs",
        sa.Column(
            "schedule_id",
            UUID,
            sa.ForeignKey("scheduled_jobs.schedule_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("scheduled_time", _TIME, primary_key=True),
        sa.Column("cause", sa.Text, primary_key=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("job_id", UUID),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint("cause IN ('schedule', 'request', 'backfill')", name="cause"),
        sa.CheckConstraint("outcome IN ('fired', 'skipped', 'missed', 'failed')", name="outcome"),
        sa.Index("schedule_runs_by_age", "recorded_at"),
    )


def _create_system_schedules() -> None:
    op.create_table(
        "system_schedules",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("cron", sa.Text, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False, server_default="UTC"),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("next_run_at", _TIME),
        sa.Column("published_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("last_run_at", _TIME),
        sa.Column("last_run_id", UUID),
        sa.Column("last_outcome", sa.Text, nullable=False, server_default=""),
        sa.Column("last_error", sa.Text, nullable=False, server_default=""),
        sa.Column("last_ended_at", _TIME),
    )
