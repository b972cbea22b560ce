"""What the hot statements read of large tables, by EXPLAIN ANALYZE."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database import (
    attempt_records,
    job_attempts_repository,
    job_lifecycle,
    job_statements,
    spared_attempts,
)
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import Lease, attempt_statements, line_statements, outlook, statements
from support.large_tables import fill_jobs, filled_database, reads_of
from support.queue_samples import created_jobs, new_worker, sample_job

_JOBS = 200_000
_WAITING = 30_000
_BATCH = 100

_FILL_QUEUE = """
INSERT INTO queue (id, type, tenant, max_attempts, state, run_at, rank)
SELECT gen_random_uuid(), 'reports:generate', 'acme', 4, state, now() + interval '1 day' + n * interval '1 second',
    n * 1000000::bigint
FROM generate_series(1, $1::integer) AS n, unnest('{ready,scheduled}'::text[]) AS state
"""
_HOLD = """
UPDATE queue SET state = 'running', attempt = 1, fence = nextval('queue_fence'), worker_id = $1
WHERE id IN (SELECT id FROM queue WHERE state = 'ready' LIMIT $2::integer)
RETURNING id, fence
"""
_FILL_ATTEMPTS = """
INSERT INTO job_attempts (job_id, fence, attempt, outcome)
SELECT gen_random_uuid(), n, 1, 'worker_lost' FROM generate_series(1, $1::integer) AS n
"""


@dataclass
class _Large:
    """A database with a long history and a long queue, and what is in it."""

    url: str
    worker_id: UUID
    held: list[UUID]
    fences: list[int]
    jobs: list[UUID]


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[_Large]:
    with filled_database(postgres_url, _filled) as filled:
        yield filled


async def _filled(url: str, conn: asyncpg.Connection) -> _Large:
    await fill_jobs(conn, _JOBS, new_id())
    await conn.execute(_FILL_QUEUE, _WAITING)
    await conn.execute(
        "INSERT INTO queue_lines (type, priority) VALUES ('reports:generate', 0), ('imports:load', 0)"
    )
    worker_id = await new_worker(conn)
    await new_worker(conn)
    held = await conn.fetch(_HOLD, worker_id, _BATCH)
    await conn.execute(_FILL_ATTEMPTS, _WAITING)
    await conn.execute("ANALYZE jobs, job_attempts, queue, queue_workers")
    jobs = await conn.fetch("SELECT job_id FROM jobs WHERE status = 'pending' LIMIT $1", _BATCH)
    ids, fences = [row["id"] for row in held], [row["fence"] for row in held]
    return _Large(url, worker_id, ids, fences, [row["job_id"] for row in jobs])


@pytest.fixture
async def conn(large: _Large) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that is rolled back."""
    database = await Database.open(large.url, application_name="test")
    try:
        async with database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            yield connection
            await transaction.rollback()
    finally:
        await database.close()


@pytest.mark.parametrize("statement", [statements.CLAIM, job_statements.CLAIM_JOBS])
async def test_a_claim_reads_what_it_takes(large: _Large, conn: asyncpg.Connection, statement: str) -> None:
    types, places = ["imports:load", "reports:generate", "unknown"], [_BATCH, _BATCH, _BATCH]

    reads = await reads_of(conn, statement, large.worker_id, types, places, _BATCH)

    # Each entry once to rank it, once to lock it, once to update it.
    assert 2 * _BATCH < reads.rows["queue"] <= 3 * _BATCH


@pytest.mark.parametrize(
    ("statement", "times", "more"),
    [
        (statements.CONFIRM, 1, []),
        (statements.COMPLETE, 2, []),
        (statements.SETTLE_CANCELLED, 1, []),
        (statements.HAND_BACK, 2, [[]]),
    ],
)
async def test_leases_are_looked_up_one_by_one(
    large: _Large, conn: asyncpg.Connection, statement: str, times: int, more: list[Any]
) -> None:
    reads = await reads_of(conn, statement, large.held, large.fences, *more)

    assert 0 < reads.rows["queue"] <= times * _BATCH


@pytest.mark.parametrize("delay", [None, timedelta(seconds=1)])
async def test_a_failure_is_looked_up_by_its_lease(
    large: _Large, conn: asyncpg.Connection, delay: timedelta | None
) -> None:
    leases, lost, counts = (large.held, large.fences), [False] * _BATCH, [True] * _BATCH
    reads = await reads_of(conn, attempt_statements.FAIL, *leases, [delay] * _BATCH, lost, False, counts)

    assert reads.rows["queue"] == 2 * _BATCH


async def test_a_cancellation_is_looked_up_by_its_id(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, statements.CANCEL, large.held)).rows["queue"] <= 2 * _BATCH
    assert (await reads_of(conn, statements.CANCEL_FREE, large.held)).rows["queue"] <= 3 * _BATCH


async def test_what_is_hastened_is_looked_up_by_its_id(large: _Large, conn: asyncpg.Connection) -> None:
    waiting = await conn.fetchval("SELECT id FROM queue WHERE state = 'scheduled' LIMIT 1")
    assert (await reads_of(conn, statements.HASTEN, waiting)).rows["queue"] == 1
    assert (await reads_of(conn, job_statements.GET_WAITING_FAILED_TYPE, large.jobs[0], "acme")).rows[
        "jobs"
    ] <= 1


async def test_a_heartbeat_reads_what_the_worker_holds(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, statements.HEARTBEAT, large.worker_id, False)).rows["queue"] == _BATCH
    assert (await reads_of(conn, statements.HELD_LEASES, large.worker_id)).rows["queue"] == _BATCH


async def test_a_rescue_reads_what_is_held(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, attempt_statements.ORPHANS, 1000)).rows["queue"] == _BATCH
    await conn.execute("DELETE FROM queue_workers")
    assert (await reads_of(conn, attempt_statements.ORPHANS, 10)).rows["queue"] <= _BATCH + 3 * 10


async def test_a_snooze_is_looked_up_by_its_lease(large: _Large, conn: asyncpg.Connection) -> None:
    delays = [timedelta(hours=1)] * _BATCH
    reads = await reads_of(conn, attempt_statements.SNOOZE, large.held, large.fences, delays)

    assert reads.rows["queue"] == 2 * _BATCH


async def test_expiry_reads_what_is_overdue(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, attempt_statements.EXPIRE, 1000)).rows["queue"] == 0
    assert (await reads_of(conn, attempt_statements.SECONDS_UNTIL_EXPIRY)).rows["queue"] <= 1
    await conn.execute(
        """UPDATE queue SET expires_at = now() WHERE id IN (
            SELECT id FROM queue WHERE state <> 'running' LIMIT $1::integer
        )""",
        2 * _BATCH,
    )
    assert (await reads_of(conn, attempt_statements.SECONDS_UNTIL_EXPIRY)).rows["queue"] <= 1
    assert (await reads_of(conn, attempt_statements.EXPIRE, _BATCH)).rows["queue"] <= 4 * _BATCH


async def test_attempts_are_recorded_and_read_by_their_jobs(large: _Large, conn: asyncpg.Connection) -> None:
    leases = [Lease(job_id, number) for number, job_id in enumerate(large.jobs)]
    texts = [_each("failed"), _each("BROKEN"), _each("It broke."), _each(None)]
    columns = ([lease.id for lease in leases], [lease.fence for lease in leases])

    assert (await reads_of(conn, attempt_records._RECORD, *columns, *texts)).rows["jobs"] == _BATCH
    reads = await reads_of(conn, attempt_records._RECORD_LOST_LEASES, *columns, "lost")
    assert reads.rows["job_attempts"] <= _BATCH
    reads = await reads_of(conn, job_attempts_repository._LIST, large.jobs[0], None, None, 10)
    assert (reads.rows["jobs"], reads.rows["job_attempts"]) == (2, 1)
    reads = await reads_of(conn, spared_attempts._READ, large.jobs, "STORE_UNAVAILABLE")
    assert reads.rows["job_attempts"] == _BATCH


async def test_promotion_reads_what_is_due(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, line_statements.PROMOTE, 1000)).rows["queue"] == 0
    assert (await reads_of(conn, statements.SECONDS_UNTIL_DUE)).rows["queue"] == 1
    await conn.execute(
        "UPDATE queue SET run_at = now() - interval '1 s' WHERE id IN"
        " (SELECT id FROM queue WHERE state = 'scheduled' LIMIT 500)"
    )
    # And the head of the line, and the last entry of the tenant in it.
    assert (await reads_of(conn, line_statements.PROMOTE, _BATCH)).rows["queue"] <= 2 * _BATCH + 2


async def test_coming_in_reads_two_entries_of_the_line(large: _Large, conn: asyncpg.Connection) -> None:
    ids = [new_id() for _ in range(_BATCH)]
    ordinary = [_each("reports:generate"), _each("acme"), _each(4), _each(0), _each(0)]

    reads = await reads_of(conn, line_statements.ENQUEUE, ids, *ordinary, *[_each(None)] * 8)

    assert reads.rows["queue"] <= 2

    texts = [_each("acme"), _each("reports:generate"), _each("{}"), _each("{}"), _each("ann")]
    columns = [[new_id() for _ in ids], *texts, _each(4), _each(0), *[_each(None)] * 5]

    reads = await reads_of(conn, job_statements.CREATE_PLAIN_JOBS, *columns)

    assert reads.rows["queue"] <= 2
    assert reads.rows["jobs"] == 0


@pytest.mark.parametrize("from_beginning", [False, True])
async def test_keeping_a_line_reads_its_head(
    large: _Large, conn: asyncpg.Connection, from_beginning: bool
) -> None:
    reads = await reads_of(conn, line_statements.KEEP_LINES, ["reports:generate"], [0], [5], from_beginning)

    assert reads.rows["queue"] <= 2
    assert (await reads_of(conn, line_statements.ADD_LINES)).rows["queue"] <= 2


async def test_a_look_reads_one_entry_of_each_kind(large: _Large, conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, outlook.LOOK, ["imports:load", "reports:generate"], True)

    # And what workers hold.
    assert reads.rows["queue"] <= _BATCH + 5


def _each(value: object) -> list[Any]:
    return [value] * _BATCH


@pytest.mark.parametrize(
    ("statement", "columns"),
    [
        (job_statements.START_JOBS, [_each(2), new_id()]),
        (job_statements.COMPLETE_JOBS, [_each("{}")]),
        (
            job_statements.FAIL_JOBS,
            [_each("pending"), _each(None), _each("BROKEN"), _each("It broke."), _each(True), _each(True)],
        ),
        (job_statements.CANCEL_JOBS, []),
        (job_statements.HAND_BACK_JOBS, []),
        (job_statements.SNOOZE_JOBS, [_each(timedelta(hours=1)), _each("later")]),
        (job_statements.REPORT_PROGRESS, [_each(50), _each("half way"), _each(None), _each(None)]),
        (job_statements.GET_CHANGED_JOBS, [_each(0)]),
    ],
)
async def test_jobs_are_looked_up_by_their_ids(
    large: _Large, conn: asyncpg.Connection, statement: str, columns: Sequence[Any]
) -> None:
    if statement in (job_statements.HAND_BACK_JOBS, job_statements.SNOOZE_JOBS):
        await conn.execute("UPDATE jobs SET attempt = 1 WHERE job_id = ANY ($1)", large.jobs)
    assert (await reads_of(conn, statement, large.jobs, *columns)).rows["jobs"] == _BATCH


async def test_one_job_is_looked_up_by_its_id(large: _Large, conn: asyncpg.Connection) -> None:
    job_id = large.jobs[0]

    assert (await reads_of(conn, job_statements.GET_JOB, job_id, None)).rows["jobs"] == 1
    assert (await reads_of(conn, job_statements.GET_STATUS, job_id, "acme")).rows["jobs"] <= 1
    assert (await reads_of(conn, job_statements.LOCK_RETRYABLE_JOB, job_id, "acme")).rows["jobs"] <= 1
    assert (await reads_of(conn, job_statements.RETRY_JOB, job_id, 5)).rows["jobs"] <= 1
    assert (await reads_of(conn, job_statements.REQUEST_CANCELLATION, [job_id])).rows["jobs"] <= 1


async def test_requests_are_looked_up_one_by_one(large: _Large, conn: asyncpg.Connection) -> None:
    requests = [str(1000 * number) for number in range(1, _BATCH + 1)]

    reads = await reads_of(
        conn,
        job_statements.FIND_BY_REQUEST,
        list(range(_BATCH)),
        _each("acme"),
        requests,
        _each("reports:generate"),
        _each("{}"),
    )

    assert reads.rows["jobs"] == _BATCH


@asynccontextmanager
async def _opened(url: str, keep_plans: bool) -> AsyncIterator[Database]:
    database = await Database.open(url, application_name="test", keep_plans=keep_plans)
    try:
        yield database
    finally:
        await database.close()


async def _rows_read_in_sequence(conn: asyncpg.Connection) -> int:
    count: int = await conn.fetchval(
        "SELECT sum(seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname IN ('jobs', 'queue')"
    )
    return count


@pytest.mark.parametrize("keep_plans", [False, True])
async def test_plans_made_while_the_tables_were_small_do_no_harm_later(
    database: Database, keep_plans: bool
) -> None:
    """A connection that has served a quiet time serves a sudden crowd by the indexes at once."""
    async with _opened(database.url, keep_plans) as worker, worker.connection() as conn:
        worker_id = await new_worker(conn)

        async def run_batch() -> None:
            capacity = {"reports:generate": _BATCH}
            claimed = await job_lifecycle.claim_jobs(conn, worker_id, capacity, _BATCH)
            reports = [job_lifecycle.ProgressReport(job.lease, 1) for job in claimed]
            await job_lifecycle.report_progress(conn, reports)
            await job_lifecycle.report_progress_where_free(conn, reports)
            await job_lifecycle.complete_jobs(conn, [(job.lease, "{}") for job in claimed])

        for quiet in range(16):
            if quiet == 8:
                await conn.execute("VACUUM ANALYZE queue, jobs")
            await created_jobs(database, *(sample_job() for _ in range(10)))
            await run_batch()
        wide = json.dumps({"text": 1000 * "x"})
        await created_jobs(database, *(sample_job(input_json=wide) for _ in range(10_000)))

        async with conn.transaction():
            before = await _rows_read_in_sequence(conn)
            await run_batch()
            assert await _rows_read_in_sequence(conn) == before


async def test_plans_kept_from_when_statistics_said_that_nothing_is_there_read_no_whole_index(
    database: Database,
) -> None:
    """A vacuum of a queue that is just empty leaves such statistics."""
    await created_jobs(database, *(sample_job() for _ in range(1_000)))
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await conn.execute("DELETE FROM queue")
        await conn.execute("DELETE FROM jobs")
        await conn.execute("VACUUM (ANALYZE, INDEX_CLEANUP on) queue, jobs")
    async with _opened(database.url, keep_plans=True) as worker, worker.connection() as conn:

        async def run_batch(count: int) -> None:
            claimed = await job_lifecycle.claim_jobs(conn, worker_id, {"reports:generate": count}, count)
            leases = [job.lease for job in claimed]
            failures = [
                job_lifecycle.JobFailure(lease, timedelta(hours=1), "TEST", "", retryable=True)
                for lease in leases[::2]
            ]
            await job_lifecycle.fail_jobs(conn, failures)
            await job_lifecycle.complete_jobs(conn, [(lease, "{}") for lease in leases[1::2]])

        for _ in range(4):
            await created_jobs(database, *(sample_job() for _ in range(2)))
            await run_batch(2)
        await created_jobs(database, *(sample_job() for _ in range(5_000)))

        async with conn.transaction():
            before = await _rows_read_by_indexes(conn)
            await run_batch(20)
            assert await _rows_read_by_indexes(conn) - before < 2_000


async def _rows_read_by_indexes(conn: asyncpg.Connection) -> int:
    count: int = await conn.fetchval(
        "SELECT sum(idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname IN ('jobs', 'queue')"
    )
    return count
