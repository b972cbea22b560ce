"""Workers remove what is kept no longer."""

import asyncio
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_flow import add_flow
from millrace_database.job_options import RetentionRule
from millrace_queue import Throttle, enter_throttles
from millrace_worker import Registry
from millrace_worker.cleaner import Cleaner
from support.queue_samples import created_jobs, sample_job
from support.worker_runs import fetch, fetched, worker

_MONTH = RetentionRule(timedelta(days=30), timedelta(days=30), timedelta(days=30))

_ADD_FINISHED = """
INSERT INTO jobs (job_id, org_id, type, status, completed_at, max_attempts)
SELECT (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0') || '7000' || lpad(to_hex(n), 16, '8'))::uuid,
    'acme', 'a', $2, time, 4
FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT now() - $3::interval + n * interval '1 ms' AS time) AS derived
"""
_JOBS = "SELECT status, count(*) FROM jobs GROUP BY status ORDER BY status"


async def _add_finished(database: Database, count: int, status: str, ago: timedelta) -> None:
    async with database.connection() as conn:
        await conn.execute(_ADD_FINISHED, count, status, ago)


async def test_a_worker_removes_jobs_as_the_settings_say(database: Database, tmp_path: Path) -> None:
    await _add_finished(database, 10, "completed", timedelta(days=3))
    await _add_finished(database, 20, "failed", timedelta(days=5))
    await _add_finished(database, 30, "cancelled", timedelta(days=7))
    await _add_finished(database, 1, "cancelled", timedelta(days=4))
    await created_jobs(database, sample_job())
    settings = {"retention_completed": 2, "retention_failed": 6, "retention_cancelled": 6.5}
    async with worker(database, Registry(), tmp_path, **settings):
        await fetched(
            database,
            _JOBS,
            lambda rows: [tuple(row) for row in rows] == [("cancelled", 1), ("failed", 20), ("pending", 1)],
        )


async def test_several_workers_remove_a_large_history(database: Database) -> None:
    await _add_finished(database, 3_500, "completed", timedelta(days=31))
    await _add_finished(database, 500, "completed", timedelta(days=29))
    cleaners = [asyncio.create_task(Cleaner(database, _MONTH).run()) for _ in range(3)]
    try:
        await fetched(database, _JOBS, lambda rows: rows[0][1] == 500, within=60)
    finally:
        for cleaner in cleaners:
            cleaner.cancel()
        ended = await asyncio.gather(*cleaners, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)


async def _leftovers(conn: asyncpg.Connection) -> None:
    keys = {new_id(): Throttle(str(n), timedelta(hours=1)) for n in range(1_200)}
    await enter_throttles(conn, keys)
    await conn.execute("UPDATE queue_throttles SET ends_at = now() WHERE unique_key <> '0'")
    await add_flow(conn, new_id(), {("a", "old"): (1, 1)})
    await conn.execute("UPDATE job_flow SET bucket = bucket - interval '10 minutes'")
    await add_flow(conn, new_id(), {("a", "new"): (1, 1)})


async def test_other_things_that_grow_with_the_traffic_are_removed(database: Database) -> None:
    async with database.transaction() as conn:
        await _leftovers(conn)
    cleaner = asyncio.create_task(Cleaner(database, _MONTH).run())
    try:
        await fetched(database, "SELECT org_id FROM job_flow", lambda rows: rows == [("new",)], within=30)
    finally:
        cleaner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cleaner
    assert [row[0] for row in await fetch(database, "SELECT unique_key FROM queue_throttles")] == ["0"]


async def test_a_worker_that_has_nothing_to_remove_asks_little(database: Database) -> None:
    cleaner = asyncio.create_task(Cleaner(database, _MONTH).run())
    try:
        # Each sweep has come to its end, and rests.
        rows = await fetched(
            database,
            "SELECT age, next_at - now() AS rest FROM retention_sweeps ORDER BY age",
            lambda rows: len(rows) == 4 and all(row["rest"] > timedelta(minutes=1) for row in rows),
            within=30,
        )
    finally:
        cleaner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cleaner
    assert all(row["rest"] > timedelta(minutes=4) for row in rows)
