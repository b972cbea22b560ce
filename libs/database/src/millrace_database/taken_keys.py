"""New jobs whose request id or unique key another job has: which one, and what becomes of them."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import job_statements
from millrace_database.job_changes import CreatedJob, NewJob
from millrace_database.job_entries import job_throttle, new_job_entry
from millrace_queue import Holder


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
    for place, holder in holders.items():
        job = jobs[place]
        on_conflict = job.options and job.options.unique and job.options.unique.on_conflict
        if on_conflict == "return_existing" and holder.tenant == job.org_id:
            results[place] = CreatedJob(holder.id, already_existed=True)
        elif (
            on_conflict == "replace"
            and holder.is_untouched
            and (holder.tenant, holder.type) == (job.org_id, job.type)
        ):
            replacing.setdefault(holder.id, {})[place] = job
        else:
            results[place] = CreatedJob(
                holder.id, already_existed=True, key_taken=True, key_taken_until=holder.ends_at
            )
    replaced = await _replace(conn, {id_: list(asking.values())[-1] for id_, asking in replacing.items()})
    for id_ in replaced:
        results |= dict.fromkeys(replacing[id_], CreatedJob(id_, already_existed=True, replaced=True))
    return results


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
    replaced = await millrace_queue.replace_waiting(
        conn, [new_job_entry(job, run_at=run_at[id_], job_id=id_) for id_, job in replacements.items()]
    )
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
