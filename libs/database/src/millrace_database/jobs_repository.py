"""Reading jobs: one, those that changed, and lists by filters."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from millrace_database import job_statements
from millrace_database.job_list_statement import JobFilters, list_statement

__all__ = ["JobFilters", "JobRecord", "get_job", "get_jobs_changed", "list_jobs"]


# Not frozen, since there is one for each job: a frozen one takes three times as long to make.
@dataclass(slots=True)
class JobRecord:
    """A job as it was at `read_at`; times are the database's, JSON is text.

    `options_json` is what `JobOptions.from_json` reads; None: its creator asked for nothing beyond the ordinary.
    """

    job_id: UUID
    org_id: str
    type: str
    status: str
    progress: int
    message: str
    total_items: int
    processed_items: int
    input_json: str
    output_json: str | None
    metadata_json: str
    error_code: str | None
    error_message: str | None
    error_retryable: bool | None
    created_by: str
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    attempt: int
    max_attempts: int
    priority: int
    schedule_id: UUID | None
    request_id: str | None
    version: int
    read_at: datetime
    options_json: str | None = None
    worker_id: UUID | None = None
    parent_job_id: UUID | None = None


async def get_job(conn: asyncpg.Connection, org_id: str | None, job_id: UUID) -> JobRecord | None:
    """Return a job of an organisation (None: of any), or None when there is no such job."""
    row = await conn.fetchrow(job_statements.GET_JOB, job_id, org_id)
    return None if row is None else JobRecord(**row)


async def get_jobs_changed(conn: asyncpg.Connection, versions: Mapping[UUID, int]) -> list[JobRecord]:
    """Return those jobs whose version is higher than the one given; with 0, a job is returned in any case."""
    if not versions:
        return []
    rows = await conn.fetch(job_statements.GET_CHANGED_JOBS, list(versions), list(versions.values()))
    return [JobRecord(**row) for row in rows]


async def list_jobs(
    session: AsyncConnection, filters: JobFilters, after: UUID | None, limit: int
) -> list[JobRecord]:
    """Return jobs by descending id, newest first.

    The order is stable while jobs are created and change: a job created meanwhile comes before the first page.

    Args:
        session: a SQLAlchemy connection.
        filters: which jobs.
        after: the last id of the page before; None: from the newest.
        limit: how many at most.

    """
    rows = await session.execute(list_statement(filters, after, limit))
    return [JobRecord(**row) for row in rows.mappings()]
