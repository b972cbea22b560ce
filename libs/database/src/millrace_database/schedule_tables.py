"""The tables of schedules."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

from millrace_database.metadata import metadata
from millrace_database.tables import among

_TIME = TIMESTAMP(timezone=True)
_NOW = text("now()")
_EMPTY_OBJECT = text("'{}'")

OVERLAP_POLICIES = ("allow", "skip", "buffer_one", "cancel_running")
CATCH_UP_POLICIES = ("run_once", "run_all", "skip")
RUN_CAUSES = ("schedule", "request", "backfill")
RUN_OUTCOMES = ("fired", "skipped", "missed", "failed")

scheduled_jobs = Table(
    "scheduled_jobs",
    metadata,
    Column("schedule_id", UUID, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("input", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("metadata", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    # The Recurrence message as its JSON form.
    Column("recurrence", JSONB, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("start_at", _TIME),
    Column("end_at", _TIME),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("pause_reason", Text, nullable=False, server_default=""),
    # NULL once it has fired for the last time. Kept while paused; the index leaves paused schedules out.
    Column("next_run_at", _TIME),
    Column("last_run_at", _TIME),
    Column("last_job_id", UUID),
    Column("consecutive_failures", Integer, nullable=False, server_default="0"),
    # Until then the firing of this schedule belongs to one scheduler, or is put off after a failure.
    Column("reserved_until", _TIME),
    Column("created_by", Text, nullable=False, server_default=""),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    Column("request_id", Text),
    # The time that the schedule names for `next_run_at`, which is later by the jitter. NULL: the same.
    Column("next_scheduled_time", _TIME),
    Column("jitter_seconds", Integer, nullable=False, server_default="0"),
    Column("overlap_policy", Text, nullable=False, server_default="allow"),
    Column("catch_up_policy", Text, nullable=False, server_default="run_once"),
    Column("catch_up_seconds", Integer),
    Column("max_runs", Integer, nullable=False, server_default="0"),
    Column("pause_after_failed_runs", Integer, nullable=False, server_default="0"),
    # The Delivery message as its JSON form, secrets included.
    Column("delivery", JSONB),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("fired_count", BigInteger, nullable=False, server_default="0"),
    Column("missed_count", BigInteger, nullable=False, server_default="0"),
    Column("skipped_count", BigInteger, nullable=False, server_default="0"),
    # When its failed runs in a row begin to count.
    Column("watched_since", _TIME, nullable=False, server_default=_NOW),
    # Deleted: its runs can still be listed. It is then paused too, so that no older release fires it.
    Column("deleted_at", _TIME),
    CheckConstraint(among("overlap_policy", OVERLAP_POLICIES), name="overlap_policy"),
    CheckConstraint(among("catch_up_policy", CATCH_UP_POLICIES), name="catch_up_policy"),
    Index("scheduled_jobs_by_org", "org_id", text("schedule_id DESC")),
    Index(
        "scheduled_jobs_kept", "org_id", text("schedule_id DESC"), postgresql_where=text("deleted_at IS NULL")
    ),
    Index(
        "scheduled_jobs_due", "next_run_at", postgresql_where=text("NOT paused AND next_run_at IS NOT NULL")
    ),
    # Those whose failed jobs are counted: few.
    Index(
        "scheduled_jobs_watched",
        "schedule_id",
        postgresql_where=text("NOT paused AND next_run_at IS NOT NULL AND pause_after_failed_runs > 0"),
    ),
    Index(
        "scheduled_jobs_request_id",
        "org_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
    # Each firing writes the row, and the next time is in an index.
    postgresql_with={
        "fillfactor": 70,
        "autovacuum_vacuum_scale_factor": 0.05,
        "autovacuum_vacuum_threshold": 500,
        "vacuum_truncate": "off",
    },
)

# What became of the times of schedules. A time that was fired has one row, however often it was tried.
schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column(
        "schedule_id", UUID, ForeignKey("scheduled_jobs.schedule_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("scheduled_time", _TIME, primary_key=True),
    # A request beside the schedule's times may be made at one of them.
    Column("cause", Text, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("recorded_at", _TIME, nullable=False, server_default=_NOW),
    Column("job_id", UUID),
    Column("reason", Text, nullable=False, server_default=""),
    CheckConstraint(among("cause", RUN_CAUSES), name="cause"),
    CheckConstraint(among("outcome", RUN_OUTCOMES), name="outcome"),
    Index("schedule_runs_by_age", "recorded_at"),
)

# Schedules that are declared beside the handlers of workers. One that no live worker publishes is not fired.
system_schedules = Table(
    "system_schedules",
    metadata,
    Column("type", Text, primary_key=True),
    Column("cron", Text, nullable=False),
    Column("time_zone", Text, nullable=False, server_default="UTC"),
    Column("description", Text, nullable=False, server_default=""),
    # NULL until a scheduler has worked it out, after each change.
    Column("next_run_at", _TIME),
    Column("published_at", _TIME, nullable=False, server_default=_NOW),
    Column("last_run_at", _TIME),
    Column("last_run_id", UUID),
    Column("last_outcome", Text, nullable=False, server_default=""),
    Column("last_error", Text, nullable=False, server_default=""),
    Column("last_ended_at", _TIME),
)
