"""Reading jobs: one, those that changed, and lists by filters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Column, ColumnElement, Select, Text, cast, func, literal, literal_column, select, true
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from millrace_database import job_statements
from millrace_database.tables import jobs

# Ids carry the clock of the service that made them, `created_at` the database's. The id bounds what is read; the
# result is right as long as the two clocks differ by less.
_CLOCK_TOLERANCE = timedelta(hours=1)
_NO_LABELS = "{}"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it was at `read_at`; times are the database's, JSON is text."""

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


@dataclass(frozen=True, slots=True)
class JobFilters:
    """Which jobs to list: all that are given must match.

    Attributes:
        org_id: whose jobs; None: those of all organisations.
        statuses: any of these; empty: all.
        types: any of these; empty: all.
        created_by: who asked for them.
        created_after: created at or after this time.
        created_before: created before this time.
        schedule_id: the schedule that made them.
        metadata_json: a JSON object; their metadata contains these keys with these values.

    """

    org_id: str | None
    statuses: Sequence[str] = ()
    types: Sequence[str] = ()
    created_by: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    schedule_id: UUID | None = None
    metadata_json: str | None = None


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


def list_statement(filters: JobFilters, after: UUID | None, limit: int) -> Select[Any]:
    """Return the query of `list_jobs`; public for the sake of its plan.

    It finds the ids of the page first and reads the wide rows of those only. Of several statuses or types each has
    a branch of its own: an index gives the jobs of one status by their ids, but not those of two.
    """
    order, conditions = _order_and_conditions(filters, after)
    statuses, types = _any_of(jobs.c.status, filters.statuses), _any_of(jobs.c.type, filters.types)
    if len(filters.statuses) > 1:
        branch = select(jobs.c.job_id).where(*conditions, *types).order_by(*order).limit(limit)
        ids = _newest_of_each(jobs.c.status, filters.statuses, branch, limit)
    elif len(filters.types) > 1:
        branch = select(jobs.c.job_id).where(*conditions, *statuses).order_by(*order).limit(limit)
        ids = _newest_of_each(jobs.c.type, filters.types, branch, limit)
    else:
        ids = select(jobs.c.job_id).where(*conditions, *statuses, *types).order_by(*order).limit(limit)
    page = ids.cte("page").prefix_with("MATERIALIZED", dialect="postgresql")
    return (
        select(*_columns())
        .join_from(page, jobs, jobs.c.job_id == page.c.job_id)
        .order_by(jobs.c.job_id.desc())
    )


def _newest_of_each(
    column: Column[str], values: Sequence[str], jobs_of_one: Select[tuple[UUID]], limit: int
) -> Select[tuple[UUID]]:
    wanted = (
        func.unnest(literal(list(dict.fromkeys(values)), ARRAY(Text)))
        .table_valued("value")
        .render_derived("wanted")
    )
    branch = jobs_of_one.where(column == wanted.c.value).correlate(wanted).lateral("branch")
    return (
        select(branch.c.job_id)
        .select_from(wanted)
        .join(branch, true())
        .order_by(branch.c.job_id.desc())
        .limit(limit)
    )


def _order_and_conditions(
    filters: JobFilters, after: UUID | None
) -> tuple[list[ColumnElement[Any]], list[ColumnElement[bool]]]:
    """Return what to order by, and the conditions but those of status and type.

    The jobs of one schedule or organisation are asked for as those of any of a list of one, ordered by that and then
    by id, which is the same order. A plain equality would let the planner read all jobs in the order of their ids
    and leave out those of others, because it takes matches to be spread evenly; they may be far from the newest.
    """
    order: list[ColumnElement[Any]] = [jobs.c.job_id.desc()]
    conditions = _conditions(filters, after)
    if filters.schedule_id is not None:
        conditions.append(jobs.c.schedule_id == func.any(literal([filters.schedule_id], ARRAY(PG_UUID))))
        order.insert(0, jobs.c.schedule_id)
        if filters.org_id is not None:
            conditions.append(jobs.c.org_id == filters.org_id)
    elif filters.org_id is not None:
        conditions.append(jobs.c.org_id == func.any(literal([filters.org_id], ARRAY(Text))))
        order.insert(0, jobs.c.org_id)
    return order, conditions


def _any_of(column: Column[str], values: Sequence[str]) -> list[ColumnElement[bool]]:
    if not values:
        return []
    return [column == values[0] if len(values) == 1 else column.in_(values)]


def _conditions(filters: JobFilters, after: UUID | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if after is not None:
        conditions.append(jobs.c.job_id < after)
    if filters.created_by is not None:
        conditions.append(jobs.c.created_by == filters.created_by)
    if filters.created_after is not None:
        conditions.append(jobs.c.created_at >= filters.created_after)
        conditions.append(jobs.c.job_id >= _first_id(filters.created_after, -_CLOCK_TOLERANCE))
    if filters.created_before is not None:
        conditions.append(jobs.c.created_at < filters.created_before)
        conditions.append(jobs.c.job_id < _first_id(filters.created_before, _CLOCK_TOLERANCE))
    if filters.metadata_json not in (None, _NO_LABELS):
        # The index leaves out jobs without labels, and serves only a query that does so word for word.
        conditions.append(jobs.c.metadata.op("@>")(cast(literal(filters.metadata_json, Text), JSONB)))
        conditions.append(jobs.c.metadata != literal_column(f"'{_NO_LABELS}'::jsonb"))
    return conditions


def _first_id(time: datetime, shift: timedelta) -> UUID:
    """Return the lowest UUIDv7 of a shifted time: its first 48 bits count milliseconds."""
    milliseconds = (time - _EPOCH + shift) // timedelta(milliseconds=1)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80)


def _columns() -> list[ColumnElement[Any]]:
    as_text = {"input", "output", "metadata"}
    return [
        cast(column, Text).label(f"{column.name}_json") if column.name in as_text else column
        for column in jobs.c
    ] + [func.now().label("read_at")]
