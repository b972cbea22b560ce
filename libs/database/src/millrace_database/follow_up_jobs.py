"""Jobs that are made for others which ended, in the transaction in which they did."""

from collections import Counter
from collections.abc import Sequence

import asyncpg

import millrace_queue
from millrace_database.job_entries import job_entry
from millrace_database.job_flow import JobCounts
from millrace_database.job_options import JobOptions


async def enqueue_follow_up_jobs(conn: asyncpg.Connection, rows: Sequence[asyncpg.Record]) -> JobCounts:
    """Let jobs whose rows have just been inserted wait to be run.

    Args:
        conn: the connection whose transaction inserted them.
        rows: their `job_id`, `org_id`, `type`, `max_attempts`, `priority` and `options_json`.

    Returns:
        How many they are, by type and organisation.

    """
    entries = [
        job_entry(
            row["job_id"],
            org_id=row["org_id"],
            type_=row["type"],
            max_attempts=row["max_attempts"],
            priority=row["priority"],
            options=JobOptions.from_json(row["options_json"]),
        )
        for row in rows
    ]
    if entries:
        await millrace_queue.enqueue(conn, entries)
    return Counter((row["type"], row["org_id"]) for row in rows)
