"""Jobs with unique keys, and what becomes of them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from millrace_database.database import Database
from millrace_database.job_lifecycle import ClaimedJob, CreatedJob, NewJob, claim_jobs, create_jobs
from millrace_database.job_options import JobOptions, UniqueConflict, UniqueRule, UniqueScope, UniqueStates
from support.queue_samples import PLENTY, sample_job


def unique_job(
    key: str = "k",
    *,
    scope: UniqueScope = "organisation_and_type",
    states: UniqueStates = "unfinished",
    on_conflict: UniqueConflict = "reject",
    window: timedelta | None = None,
    options: JobOptions | None = None,
    **changes: Any,
) -> NewJob:
    rule = UniqueRule(key, scope, states, on_conflict, window)
    return sample_job(options=replace(options or JobOptions(), unique=rule), **changes)


async def create(database: Database, *jobs: NewJob) -> list[CreatedJob]:
    async with database.transaction() as conn:
        return await create_jobs(conn, jobs)


async def create_one(database: Database, job: NewJob) -> CreatedJob:
    (created,) = await create(database, job)
    return created


async def claim_all(
    database: Database, worker_id: UUID, *types: str, limit: int = PLENTY
) -> list[ClaimedJob]:
    async with database.transaction() as conn:
        capacity = dict.fromkeys(types or ("reports:generate",), PLENTY)
        return await claim_jobs(conn, worker_id, capacity, limit)


async def counts(conn: asyncpg.Connection) -> tuple[int, int]:
    """How many jobs and entries there are."""
    row = await conn.fetchrow("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM queue)")
    assert row is not None
    return row[0], row[1]


def taken(job_id: UUID) -> CreatedJob:
    return CreatedJob(job_id, already_existed=True, key_taken=True)


def existing(job_id: UUID) -> CreatedJob:
    return CreatedJob(job_id, already_existed=True)


def replaced(job_id: UUID) -> CreatedJob:
    return CreatedJob(job_id, already_existed=True, replaced=True)
