"""Claim, progress and completion write no index of `jobs`: their updates are HOT."""

import json
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.job_lifecycle import ProgressReport, claim_jobs, complete_plain_jobs, report_progress
from millrace_database.migrate import migrate
from support.queue_samples import created_jobs, new_worker, sample_job

_BATCH = 100
_BATCHES = 10


async def _run_batch(database: Database, worker_id: UUID, progress: int) -> None:
    async with database.connection() as conn:
        claimed = await claim_jobs(conn, worker_id, {"reports:generate": _BATCH}, _BATCH)
    assert len(claimed) == _BATCH
    for step in range(progress):
        async with database.transaction() as conn:
            await report_progress(conn, [ProgressReport(job.lease, step, "Working…") for job in claimed])
    async with database.connection() as conn:
        await complete_plain_jobs(conn, [(job.lease, '{"pages": 12, "rows": 3400}') for job in claimed])


async def _updates(conn: asyncpg.Connection) -> tuple[int, int]:
    await conn.execute("SELECT pg_stat_force_next_flush()")
    row = await conn.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs'"
    )
    assert row is not None
    return row["n_tup_upd"], row["n_tup_hot_upd"]


@pytest.fixture
async def quiet_database(quiet_postgres_url: str) -> AsyncIterator[Database]:
    await migrate(quiet_postgres_url)
    database = await Database.open(quiet_postgres_url, application_name="test")
    yield database
    async with database.connection() as conn:
        await conn.execute("TRUNCATE jobs, queue, queue_lines")
        await conn.execute("SELECT pg_stat_reset()")
    await database.close()


@pytest.mark.parametrize("progress", [0, 3])
@pytest.mark.parametrize("bytes_of_input", [100, 300, 1500])
async def test_claim_and_completion_are_hot_updates(
    quiet_database: Database, bytes_of_input: int, progress: int
) -> None:
    database = quiet_database
    wide = json.dumps({"text": bytes_of_input * "x"})
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
    for _ in range(_BATCHES):
        await created_jobs(database, *(sample_job(input_json=wide) for _ in range(_BATCH)))
    for _ in range(_BATCHES):
        await _run_batch(database, worker_id, progress)

    # One connection of the pool did all of it, so that its statistics are complete when it has written them.
    async with database.connection() as conn:
        updated, hot = await _updates(conn)
    assert updated == (2 + progress) * _BATCH * _BATCHES
    assert hot >= 0.9 * updated
