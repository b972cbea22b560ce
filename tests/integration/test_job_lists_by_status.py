"""Lists by every combination of statuses, with other filters, against a plain filter over all jobs."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import asyncpg

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import (
    Cancellation,
    JobFailure,
    NewJob,
    cancel_job,
    claim_jobs,
    complete_jobs,
    create_jobs,
    fail_jobs,
)
from millrace_database.jobs_repository import JobFilters, JobRecord, get_jobs_changed, list_jobs
from millrace_database.tables import JOB_STATUSES
from support.queue_samples import disagreements, new_worker, sample_job

_ORGS = ("acme", "umbrella")
_TYPES = ("a", "b", "c")
_PEOPLE = ("ann", "bob")
_SCHEDULE = new_id()
_EACH = 25
_LABELS = '{"colour": "red"}'


async def _create(conn: asyncpg.Connection, chance: random.Random, *, run_at: datetime | None = None) -> None:
    jobs: list[NewJob] = [
        sample_job(
            org_id=chance.choice(_ORGS),
            type=chance.choice(_TYPES),
            created_by=chance.choice(_PEOPLE),
            schedule_id=_SCHEDULE if chance.random() < 0.3 else None,
            metadata_json=_LABELS if chance.random() < 0.3 else "{}",
            run_at=run_at,
        )
        for _ in range(_EACH)
    ]
    await create_jobs(conn, jobs)


async def _jobs_of_every_status(database: Database, chance: random.Random) -> list[JobRecord]:
    """Jobs whose statuses, in the order of their ids, are mixed: each round leaves some of every kind."""
    async with database.transaction() as conn:
        worker_id = await new_worker(conn)
        for _ in range(4):
            await _create(conn, chance)
            claimed = await claim_jobs(conn, worker_id, dict.fromkeys(_TYPES, _EACH), 15)
            chance.shuffle(claimed)
            await complete_jobs(conn, [(job.lease, "{}") for job in claimed[:4]])
            await fail_jobs(conn, [JobFailure(job.lease, None, "BROKEN", "", False) for job in claimed[4:7]])
            later = timedelta(hours=1)
            await fail_jobs(conn, [JobFailure(job.lease, later, "BUSY", "", True) for job in claimed[7:9]])
            for job in claimed[9:12]:
                cancelled = await cancel_job(conn, job.org_id, job.claim.id)
                assert cancelled.outcome is Cancellation.CANCELLING
            waiting = await conn.fetch(
                "SELECT job_id, org_id FROM jobs WHERE status = 'pending' ORDER BY job_id"
            )
            for row in chance.sample(waiting, 3):
                await cancel_job(conn, row["org_id"], row["job_id"])
            await _create(conn, chance, run_at=datetime.now(UTC) + timedelta(days=1))
        assert await disagreements(conn) == []
        ids = [row["job_id"] for row in await conn.fetch("SELECT job_id FROM jobs")]
        jobs = await get_jobs_changed(conn, dict.fromkeys(ids, 0))
    assert {job.status for job in jobs} == set(JOB_STATUSES)
    return sorted(jobs, key=lambda job: job.job_id, reverse=True)


def _every_choice_of_statuses() -> Iterator[Sequence[str]]:
    for count in range(len(JOB_STATUSES) + 1):
        yield from combinations(JOB_STATUSES, count)


def _matches(job: JobRecord, filters: JobFilters) -> bool:
    return (
        filters.org_id in (None, job.org_id)
        and (not filters.statuses or job.status in filters.statuses)
        and (not filters.types or job.type in filters.types)
        and filters.created_by in (None, job.created_by)
        and filters.schedule_id in (None, job.schedule_id)
        and (filters.metadata_json is None or job.metadata_json == _LABELS)
        and (filters.created_after is None or job.created_at >= filters.created_after)
        and (filters.created_before is None or job.created_at < filters.created_before)
    )


async def _page(database: Database, filters: JobFilters, after: UUID | None, limit: int) -> list[UUID]:
    async with database.session() as session:
        return [job.job_id for job in await list_jobs(session, filters, after, limit)]


async def _check(database: Database, jobs: Sequence[JobRecord], filters: JobFilters) -> None:
    expected = [job.job_id for job in jobs if _matches(job, filters)]

    assert await _page(database, filters, None, 1000) == expected, filters
    limit = max(1, len(expected) // 3)
    pages: list[UUID] = []
    after = None
    while page := await _page(database, filters, after, limit):
        assert len(page) == limit or len(pages) + len(page) == len(expected), filters
        pages.extend(page)
        after = page[-1]
    assert pages == expected, filters


async def test_lists_by_every_choice_of_statuses_and_of_other_filters(database: Database) -> None:
    chance = random.Random(1)  # noqa: S311 - a sample
    jobs = await _jobs_of_every_status(database, chance)
    some_time = jobs[len(jobs) // 2].created_at
    others: list[dict[str, Any]] = [
        {},
        {"types": ("a",)},
        {"types": ("a", "c", "unknown", "a")},
        {"created_by": "bob"},
        {"schedule_id": _SCHEDULE},
        {"metadata_json": _LABELS},
        {"created_after": some_time},
        {"created_before": some_time},
        {"created_before": some_time + timedelta(hours=1), "types": ("b",), "created_by": "ann"},
        {"schedule_id": _SCHEDULE, "metadata_json": _LABELS, "types": ("a", "b")},
    ]
    for statuses in _every_choice_of_statuses():
        for org_id in ("acme", None):
            for other in (others[0], chance.choice(others[1:])):
                await _check(database, jobs, replace(JobFilters(org_id, statuses), **other))


async def test_the_outcome_follows_the_status(database: Database) -> None:
    await _jobs_of_every_status(database, random.Random(2))  # noqa: S311 - a sample
    async with database.connection() as conn:
        rows = await conn.fetch("SELECT DISTINCT status, outcome FROM jobs")

    assert {row["status"]: row["outcome"] for row in rows} == {
        status: status if status in ("failed", "cancelled") else None for status in JOB_STATUSES
    }
    assert len(rows) == len(JOB_STATUSES)
