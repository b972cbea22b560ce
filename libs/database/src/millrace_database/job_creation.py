"""The beginning of a user job: its row and its queue entry.

All creations take what others may wait for in one order, so that they do not wait for each other in a circle: request
ids, throttled keys, unique keys, and last the entries that they replace.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_statements
from millrace_database.job_changes import CreatedJob, NewJob
from millrace_database.job_entries import exclusive_place, job_throttle, new_job_entry
from millrace_database.taken_keys import find_key_holders, find_repeated, settle_taken


async def create_jobs(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
    """Create jobs with their queue entries.

    A job whose request id another has, in the database or earlier in `jobs`, is not created; nor is one whose
    unique key is taken, and then its options say what is done instead. Request ids come first. If the transaction that
    creates the other is still open, this one waits for its end: then the other exists, or this one is created. A job
    whose id exists counts as created, so a call may be repeated when it is not known what became of it.

    Returns:
        One result per job, in the same order.

    Raises:
        asyncpg.DeadlockDetectedError: another transaction needed the same jobs in another order; try again.
        asyncpg.UniqueViolationError: the request id of a job that was to replace another was used at the same moment;
            try again.

    """
    results: dict[int, CreatedJob] = {}
    missing = dict(enumerate(jobs))
    while missing:
        # For jobs without a unique key it is one round, unless the job in the way was deleted before it could be read.
        keyed = {place: job for place, job in missing.items() if exclusive_place(job)}
        results |= await find_repeated(conn, keyed)
        holders = await find_key_holders(conn, _without(keyed, results))
        own = {place: jobs[place] for place, holder in holders.items() if holder.id == jobs[place].job_id}
        results |= await _find_made(conn, own)
        holders = {place: holder for place, holder in holders.items() if place not in own}
        free = _first_of_each_key(_without(missing, results.keys() | holders.keys()))
        if free:
            results |= await _create(conn, free)
        else:
            results |= await settle_taken(conn, missing, holders)
        missing = _without(missing, results)
    return [results[place] for place in range(len(jobs))]


async def create_plain_jobs(conn: asyncpg.Connection, jobs: Sequence[NewJob]) -> list[CreatedJob]:
    """Create jobs as `create_jobs` does, each of which `is_plain`, in one statement.

    The connection may be in autocommit mode: then fewer than 100 jobs are created together, or none. (Should a job that has
    the request id of one of them be deleted at the same moment, that one comes a little later.) An entry's rank is chosen
    before it waits for such a job: a claim finds what waited for longer than a second up to 10 s late.
    """
    results: dict[int, CreatedJob] = {}
    missing = dict(enumerate(jobs))
    while missing:
        await millrace_queue.take_turns(
            conn, [(job.type, job.priority, job.org_id) for job in missing.values()]
        )
        columns = _columns(list(missing.values()))
        inserted = _inserted(await conn.fetch(job_statements.CREATE_PLAIN_JOBS, *columns))
        results |= {place: inserted[job.job_id] for place, job in missing.items() if job.job_id in inserted}
        missing = _without(missing, results)
        results |= await _find_made(conn, missing)
        missing = _without(missing, results)
    return [results[place] for place in range(len(jobs))]


async def _create(conn: asyncpg.Connection, jobs: Mapping[int, NewJob]) -> dict[int, CreatedJob]:
    """Create jobs whose keys seem to be free; missing in the result are those whose keys turned out to be taken."""
    inserted = _inserted(await conn.fetch(job_statements.INSERT_JOBS, *_columns(list(jobs.values()))))
    fresh = {place: job for place, job in jobs.items() if job.job_id in inserted}
    entered = await _enter(conn, list(fresh.values()), inserted)
    if too_many := inserted.keys() - entered:
        await conn.execute(job_statements.DELETE_JOBS, list(too_many))
    created = {place: inserted[job.job_id] for place, job in fresh.items() if job.job_id in entered}
    return created | await _find_made(conn, _without(jobs, fresh))


async def _find_made(conn: asyncpg.Connection, jobs: Mapping[int, NewJob]) -> dict[int, CreatedJob]:
    """Return the results of those jobs that exist, or whose request id another has."""
    if not jobs:
        return {}
    own = _inserted(await conn.fetch(job_statements.FIND_OWN, [job.job_id for job in jobs.values()]))
    found = {place: own[job.job_id] for place, job in jobs.items() if job.job_id in own}
    return found | await find_repeated(conn, _without(jobs, found))


def _inserted(rows: Sequence[asyncpg.Record]) -> dict[UUID, CreatedJob]:
    return {
        job_id: CreatedJob(job_id, created_at=created_at, run_at=run_at)
        for job_id, created_at, run_at in rows
    }


def _columns(jobs: Sequence[NewJob]) -> tuple[list[Any], ...]:
    return (
        [job.job_id for job in jobs],
        [job.org_id for job in jobs],
        [job.type for job in jobs],
        [job.input_json for job in jobs],
        [job.metadata_json for job in jobs],
        [job.created_by for job in jobs],
        [job.max_attempts for job in jobs],
        [job.priority for job in jobs],
        [job.run_at for job in jobs],
        [job.delay for job in jobs],
        [job.schedule_id for job in jobs],
        [job.request_id for job in jobs],
        [job.options and job.options.to_json() for job in jobs],
    )


async def _enter(
    conn: asyncpg.Connection, jobs: Sequence[NewJob], inserted: Mapping[UUID, CreatedJob]
) -> set[UUID]:
    """Put the entries of jobs into the queue; return the ids of the jobs whose keys were free."""
    throttles = {job.job_id: throttle for job in jobs if (throttle := job_throttle(job))}
    shut_out = throttles.keys() - await millrace_queue.enter_throttles(conn, throttles)
    entries = [
        new_job_entry(job, run_at=job.run_at if job.delay is None else inserted[job.job_id].run_at)
        for job in jobs
        if job.job_id not in shut_out
    ]
    return await millrace_queue.enqueue(conn, entries)


def _first_of_each_key(jobs: Mapping[int, NewJob]) -> dict[int, NewJob]:
    """Return jobs, of those with the same key the first: the others would only be created to be deleted."""
    seen: set[tuple[str, str]] = set()
    first: dict[int, NewJob] = {}
    for place, job in jobs.items():
        key = exclusive_place(job)
        if key is None or key not in seen:
            first[place] = job
        if key:
            seen.add(key)
    return first


def _without(jobs: Mapping[int, NewJob], places: Container[int]) -> dict[int, NewJob]:
    return {place: job for place, job in jobs.items() if place not in places}
