from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSON, JSONB, TIMESTAMP, UUID

from millrace_database.metadata import metadata

_TIME = TIMESTAMP(timezone=True)
_NOW = text("now()")
_EMPTY_OBJECT = text("'{}'")
_WITH_ORG = text("org_id IS NOT NULL")

JOB_STATUSES = ("pending", "processing", "cancelling", "completed", "failed", "cancelled")
FINAL_STATUSES = ("completed", "failed", "cancelled")
FAILED_STATUSES = ("failed", "cancelled")


def among(column: str, values: tuple[str, ...]) -> str:
    """Return the condition that a column has one of the values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


# The record of a user job, for its whole life. It is written at creation, claim and completion. Of what these and
# progress change nothing is in an index, and a page is filled less than half: so those updates stay on their page and
# touch no index (HOT). Lists by status go by the queue, by `outcome`, or by the order of ids instead.
jobs = Table(
    "jobs",
    metadata,
    Column("job_id", UUID, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("progress", SmallInteger, nullable=False, server_default="0"),
    Column("message", Text, nullable=False, server_default=""),
    Column("total_items", BigInteger, nullable=False, server_default="0"),
    Column("processed_items", BigInteger, nullable=False, server_default="0"),
    Column("input", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("output", JSONB),
    Column("metadata", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_retryable", Boolean),
    Column("created_by", Text, nullable=False, server_default=""),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("run_at", _TIME, nullable=False, server_default=_NOW),
    Column("started_at", _TIME),
    Column("completed_at", _TIME),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("schedule_id", UUID),
    Column("request_id", Text),
    # Grows by one with every change of the row: WatchJob sends what is newer than what it sent last.
    Column("version", BigInteger, nullable=False, server_default="1"),
    # The status of a job that ended without success, NULL of any other; Postgres keeps it. Claim and completion leave
    # it NULL, so that it may be in an index. Only lists read it.
    Column(
        "outcome",
        Text,
        Computed(f"CASE WHEN {among('status', FAILED_STATUSES)} THEN status END", persisted=True),
    ),
    # The error code of such a job, kept in the same way and for the same reason.
    Column(
        "final_error_code",
        Text,
        Computed(f"CASE WHEN {among('status', FAILED_STATUSES)} THEN error_code END", persisted=True),
    ),
    # What its creator asked for beyond the ordinary, the JSON form of JobOptions; NULL: nothing.
    Column("options", JSONB),
    # Who ran its latest attempt.
    Column("worker_id", UUID),
    # The job that it was made for, such as the one whose dead letter it is.
    Column("parent_job_id", UUID),
    CheckConstraint(among("status", JOB_STATUSES), name="status"),
    CheckConstraint(
        f"({among('status', FINAL_STATUSES)}) = (completed_at IS NOT NULL)", name="completed_at_when_final"
    ),
    CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
    CheckConstraint("priority BETWEEN -100 AND 100", name="priority"),
    CheckConstraint("attempt >= 0 AND max_attempts >= 1", name="attempts"),
    Index(
        "jobs_request_id",
        "org_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
    # Those that begin with the organisation are partial, by what is true of every job: they serve only who asks for one
    # organisation. By its id alone a job is looked up in the primary key, and a plan cannot go through one of them instead.
    Index("jobs_by_org", "org_id", text("job_id DESC"), postgresql_where=_WITH_ORG),
    Index(
        "jobs_by_org_outcome",
        "org_id",
        "outcome",
        text("job_id DESC"),
        postgresql_where=text("outcome IS NOT NULL"),
    ),
    Index("jobs_by_outcome", "outcome", text("job_id DESC"), postgresql_where=text("outcome IS NOT NULL")),
    Index(
        "jobs_by_org_error",
        "org_id",
        "final_error_code",
        text("job_id DESC"),
        postgresql_where=text("final_error_code IS NOT NULL"),
    ),
    Index(
        "jobs_by_error",
        "final_error_code",
        text("job_id DESC"),
        postgresql_where=text("final_error_code IS NOT NULL"),
    ),
    Index(
        "jobs_by_parent",
        "parent_job_id",
        text("job_id DESC"),
        postgresql_where=text("parent_job_id IS NOT NULL"),
    ),
    Index("jobs_by_org_type", "org_id", "type", text("job_id DESC"), postgresql_where=_WITH_ORG),
    Index("jobs_by_org_creator", "org_id", "created_by", text("job_id DESC"), postgresql_where=_WITH_ORG),
    Index(
        "jobs_by_schedule",
        "schedule_id",
        text("job_id DESC"),
        postgresql_where=text("schedule_id IS NOT NULL"),
    ),
    Index(
        "jobs_by_metadata",
        "metadata",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=text("metadata <> '{}'"),
    ),
    # After a small share of changes, since a long history makes a large one last for days: a vacuum reads the pages
    # that have changed, and statistics are a sample of fixed size, so that neither costs more for being done often.
    # No vacuum gives pages back, because that needs an exclusive lock on a table that every claim writes.
    postgresql_with={
        "fillfactor": 45,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 5000,
        "autovacuum_vacuum_insert_scale_factor": 0.05,
        "autovacuum_analyze_scale_factor": 0.02,
        "autovacuum_analyze_threshold": 1000,
        "vacuum_truncate": "off",
    },
)

# What workers published of their handlers. A type stays when its workers are gone.
job_types = Table(
    "job_types",
    metadata,
    Column("type", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("input_schema", JSONB, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout", INTERVAL, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("published_at", _TIME, nullable=False, server_default=_NOW),
    # The handler's further rules, and what operators have set instead: the JSON form of JobTypeOptions.
    Column("options", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    Column("overrides", JSONB, nullable=False, server_default=_EMPTY_OBJECT),
    CheckConstraint("max_attempts >= 1 AND concurrency >= 1", name="limits"),
)

ATTEMPT_OUTCOMES = (
    "failed",
    "timed_out",
    "worker_lost",
    "lease_lost",
    "handed_back",
    "snoozed",
    "cancelled",
)

# An attempt that ended without completing its job. The one that runs or completed is told by the row of the job, so
# that a job that succeeds at once writes nothing here.
job_attempts = Table(
    "job_attempts",
    metadata,
    Column("job_id", UUID, primary_key=True),
    # The fence of its claim: an attempt that was handed back has the number of the one after it.
    Column("fence", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("started_at", _TIME),
    Column("ended_at", _TIME, nullable=False, server_default=_NOW),
    Column("worker_id", UUID),
    Column("worker_name", Text, nullable=False, server_default=""),
    Column("error_code", Text),
    Column("error_message", Text),
    CheckConstraint(among("outcome", ATTEMPT_OUTCOMES), name="outcome"),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0.05,
        "autovacuum_vacuum_threshold": 5000,
        "autovacuum_vacuum_insert_scale_factor": 0.05,
        "autovacuum_analyze_scale_factor": 0.05,
        "autovacuum_analyze_threshold": 1000,
        "vacuum_truncate": "off",
    },
)

# How far the search for jobs that are kept no longer has come: behind `position` it goes on with jobs that were
# created longer than `age` ago. Age 0 stands for all jobs, and its row is the lock on the search.
retention_sweeps = Table(
    "retention_sweeps",
    metadata,
    Column("age", INTERVAL, primary_key=True),
    Column("position", UUID, nullable=False, server_default=text("'00000000-0000-0000-0000-000000000000'")),
    Column("next_at", _TIME, nullable=False, server_default=_NOW),
    postgresql_with={
        "fillfactor": 50,
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 200,
        "vacuum_truncate": "off",
    },
)

# How many jobs were created and finished, by spans of 10 s. Each process writes rows of its own. A crash of the server
# empties it, which costs a minute of rates.
job_flow = Table(
    "job_flow",
    metadata,
    Column("bucket", _TIME, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("org_id", Text, primary_key=True),
    Column("source", UUID, primary_key=True),
    Column("created", BigInteger, nullable=False, server_default="0"),
    Column("finished", BigInteger, nullable=False, server_default="0"),
    prefixes=["UNLOGGED"],
    postgresql_with={
        "fillfactor": 50,
        "autovacuum_vacuum_scale_factor": 0.1,
        "autovacuum_vacuum_threshold": 1000,
        "vacuum_truncate": "off",
    },
)

# A named table of rows that imports fill and reports read.
datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", UUID, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Index("datasets_by_name", "org_id", "name", unique=True),
)

# How far an import is: written in the transaction that writes its rows, so that a later attempt goes on
# exactly behind them.
dataset_imports = Table(
    "dataset_imports",
    metadata,
    Column("job_id", UUID, primary_key=True),
    Column("dataset_id", UUID, ForeignKey("datasets.dataset_id", ondelete="CASCADE"), nullable=False),
    Column("rows_read", BigInteger, nullable=False, server_default="0"),
    Column("rows_loaded", BigInteger, nullable=False, server_default="0"),
    Column("rows_failed", BigInteger, nullable=False, server_default="0"),
    Column("errors", JSONB, nullable=False, server_default=text("'[]'")),
    # The columns of the rows in their order, which belongs to no single row.
    Column("columns", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # Until then its rows are in nobody's sight: half an import is never read.
    Column("completed_at", _TIME),
    CheckConstraint("rows_loaded >= 0 AND rows_failed >= 0 AND rows_read >= 0", name="counts"),
    Index("dataset_imports_by_dataset", "dataset_id"),
    Index("dataset_imports_unfinished", "job_id", postgresql_where=text("completed_at IS NULL")),
)

dataset_rows = Table(
    "dataset_rows",
    metadata,
    Column("dataset_id", UUID, ForeignKey("datasets.dataset_id", ondelete="CASCADE"), primary_key=True),
    Column("job_id", UUID, primary_key=True),
    # The row's number in its file, from 1: with the job it makes a second insert impossible.
    Column("row_number", BigInteger, primary_key=True),
    # Read as a whole and never searched: kept as it was written, with the order of its keys.
    Column("data", JSON, nullable=False),
)
