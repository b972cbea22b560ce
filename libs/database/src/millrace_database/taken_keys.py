"""New jobs whose request id or unique key another job has: which one, and what becomes of them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_statements
from millrace_database.job_changes import CreatedJob, NewJob
from millrace_database.job_entries import job_throttle, new_job_entry
from millrace_database.job_options import UniqueConflict
from millrace_queue import Holder, NewEntry


class _BegunMeanwhileError(Exception):
    """A job that was to be replaced has been started, and waits again."""


async def find_repeated(conn: asyncpg.Connection, jobs: Mapping[int, NewJob]) -> dict[int, CreatedJob]:
    """Return the results of those jobs whose request id another has, by their places."""
    asking = {place: job for place, job in jobs.items() if job.request_id is not None}
    if not asking:
        return {}
    rows = await conn.fetch(
        job_statements.FIND_BY_REQUEST,
        list(asking),
        [job.org_id for job in asking.values()],
        [job.request_id for job in asking.values()],
        [job.type for job in asking.values()],
        [job.input_json for job in asking.values()],
    )
    return {
        row["place"]: CreatedJob(row["job_id"], already_existed=True, conflict=row["conflict"])
        for row in rows
    }


async def find_key_holders(conn: asyncpg.Connection, jobs: Mapping[int, NewJob]) -> dict[int, Holder]:
    """Return who has the unique keys of jobs, or was let in last by their throttled keys, by their places.

    Nobody is locked, and what another transaction has not committed yet is not seen.
    """
    entries = [new_job_entry(job) for job in jobs.values()]
    holders = await millrace_queue.find_holders(conn, entries)
    held = {place: holders[job.job_id] for place, job in jobs.items() if job.job_id in holders}
    return held | await _let_in_last(conn, jobs)


async def settle_taken(
    conn: asyncpg.Connection, jobs: Mapping[int, NewJob], holders: Mapping[int, Holder]
) -> dict[int, CreatedJob]:
    """Do what jobs say is to be done when `holders` have their keys.

    Several that replace the same job do so one after the other, so that it is left as the last one asks.

    Returns:
        Results by place. Missing are jobs that were to replace one that has been claimed or is gone since.

    """
    results: dict[int, CreatedJob] = {}
    replacing: dict[UUID, dict[int, NewJob]] = {}
    may_replace = {place for place, holder in holders.items() if _may_replace(jobs[place], holder)}
    begun = await _find_begun(conn, {holders[place].id for place in may_replace})
    for place, holder in holders.items():
        job = jobs[place]
        if _on_conflict(job) == "return_existing" and holder.tenant == job.org_id:
            results[place] = CreatedJob(holder.id, already_existed=True)
        elif place in may_replace and holder.id not in begun:
            replacing.setdefault(holder.id, {})[place] = job
        else:
            results[place] = CreatedJob(
                holder.id, already_existed=True, key_taken=True, key_taken_until=holder.ends_at
            )
    replaced = await _replace(conn, {id_: list(asking.values())[-1] for id_, asking in replacing.items()})
    for id_ in replaced:
        results |= dict.fromkeys(replacing[id_], CreatedJob(id_, already_existed=True, replaced=True))
    return results


def _on_conflict(job: NewJob) -> UniqueConflict | None:
    rule = job.options and job.options.unique
    return rule.on_conflict if rule else None


def _may_replace(job: NewJob, holder: Holder) -> bool:
    """Tell whether a job may replace the holder of its key, as far as the queue knows."""
    is_its_own = (holder.tenant, holder.type) == (job.org_id, job.type)
    return _on_conflict(job) == "replace" and holder.is_untouched and is_its_own


async def _let_in_last(conn: asyncpg.Connection, jobs: Mapping[int, NewJob]) -> dict[int, Holder]:
    keys = {place: throttle.key for place, job in jobs.items() if (throttle := job_throttle(job))}
    let_in = await millrace_queue.find_throttles(conn, set(keys.values()))
    if not let_in:
        return {}
    rows = await conn.fetch(job_statements.FIND_OWNERS, [last.id for last in let_in.values()])
    owners = {job_id: (type_, org_id) for job_id, type_, org_id in rows}
    return {
        place: Holder(last.id, *owners.get(last.id, ("", "")), is_untouched=False, ends_at=last.ends_at)
        for place, key in keys.items()
        if (last := let_in.get(key))
    }


async def _replace(conn: asyncpg.Connection, replacements: Mapping[UUID, NewJob]) -> set[UUID]:
    """Give jobs, by their ids, what new ones ask for; return the ids of those that had not been started."""
    if not replacements:
        return set()
    now: datetime = await conn.fetchval("SELECT now()")
    run_at = {id_: job.run_at if job.delay is None else now + job.delay for id_, job in replacements.items()}
    entries = [new_job_entry(job, run_at=run_at[id_], job_id=id_) for id_, job in replacements.items()]
    try:
        replaced = await _replace_entries(conn, entries)
    except _BegunMeanwhileError:
        return set()
    given = {id_: job for id_, job in replacements.items() if id_ in replaced}
    await conn.execute(
        job_statements.REPLACE_JOBS,
        list(given),
        [job.input_json for job in given.values()],
        [job.metadata_json for job in given.values()],
        [job.max_attempts for job in given.values()],
        [job.priority for job in given.values()],
        [run_at[id_] for id_ in given],
        [job.options and job.options.to_json() for job in given.values()],
        [job.request_id for job in given.values()],
    )
    return replaced


async def _replace_entries(conn: asyncpg.Connection, entries: Sequence[NewEntry]) -> set[UUID]:
    async with conn.transaction():
        replaced = await millrace_queue.replace_waiting(conn, entries)
        # To the queue, one whose attempt did not count looks as if it had never been started. Only now is it locked.
        if await _find_begun(conn, replaced):
            raise _BegunMeanwhileError
    return replaced


async def _find_begun(conn: asyncpg.Connection, job_ids: Collection[UUID]) -> set[UUID]:
    """Return which of the jobs have been started: their handlers may have kept something of what they were to do."""
    if not job_ids:
        return set()
    return {row["job_id"] for row in await conn.fetch(job_statements.FIND_BEGUN, list(job_ids))}
