"""What the hot statements and the lists read of large tables, by EXPLAIN ANALYZE."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from millrace_database import job_lifecycle, job_statements
from millrace_database.connection_url import asyncpg_dsn, with_database
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.jobs_repository import JobFilters, list_statement
from millrace_database.migrate import migrate
from millrace_queue import statements
from support.queue_samples import created_jobs, new_worker, sample_job

_JOBS = 200_000
_WAITING = 30_000
_BATCH = 100
_PAGE = 50
_SCHEDULE = new_id()

# One job a minute, the newest an hour old. All but every thousandth belong to one organisation, are completed, of
# one type, and so on: what is rare must not be searched for among what is not. One organisation has nothing new.
_FILL_JOBS = """
INSERT INTO jobs (
    job_id, org_id, type, status, metadata, created_by, created_at, completed_at, max_attempts, schedule_id, request_id
)
SELECT
    (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
    CASE WHEN n % 1000 = 1 THEN 'small' WHEN n > $1 / 2 AND n % 2 = 0 THEN 'past' ELSE 'acme' END,
    CASE WHEN n % 1000 = 2 THEN 'imports:load' ELSE 'reports:generate' END,
    CASE WHEN n % 1000 = 3 THEN 'failed' WHEN n % 1000 = 4 THEN 'pending' ELSE 'completed' END,
    CASE WHEN n % 100 = 5 THEN jsonb_build_object('order', n) ELSE '{}' END,
    CASE WHEN n % 1000 = 6 THEN 'bob' ELSE 'ann' END,
    time,
    CASE WHEN n % 1000 <> 4 THEN time END,
    4,
    CASE WHEN n % 1000 = 7 THEN $2::uuid END,
    n::text
FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT now() - (n + 59) * interval '1 minute' AS time) AS derived
"""
_FILL_QUEUE = """
INSERT INTO queue (id, type, tenant, max_attempts, state, run_at)
SELECT gen_random_uuid(), 'reports:generate', 'acme', 4, state, now() + interval '1 day' + n * interval '1 second'
FROM generate_series(1, $1::integer) AS n, unnest('{ready,scheduled}'::text[]) AS state
"""
_HOLD = """
UPDATE queue SET state = 'running', attempt = 1, fence = nextval('queue_fence'), worker_id = $1
WHERE id IN (SELECT id FROM queue WHERE state = 'ready' LIMIT $2::integer)
RETURNING id, fence
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
    name = f"plans_{uuid4().hex}"
    with asyncio.Runner() as runner:
        runner.run(_on(postgres_url, f"CREATE DATABASE {name}"))
        yield runner.run(_filled(with_database(postgres_url, name)))
        runner.run(_on(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _on(url: str, statement: str) -> None:
    conn = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


async def _filled(url: str) -> _Large:
    await migrate(url)
    conn = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await conn.execute(_FILL_JOBS, _JOBS, _SCHEDULE)
        await conn.execute(_FILL_QUEUE, _WAITING)
        worker_id = await new_worker(conn)
        await new_worker(conn)
        held = await conn.fetch(_HOLD, worker_id, _BATCH)
        await conn.execute("ANALYZE jobs, queue, queue_workers")
        jobs = await conn.fetch("SELECT job_id FROM jobs WHERE status = 'pending' LIMIT $1", _BATCH)
    finally:
        await conn.close()
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


class _Reads:
    """How many rows of which table a statement looked at, and how."""

    def __init__(self, plan: str) -> None:
        self.plan = plan
        self.rows: dict[str, int] = {"jobs": 0, "queue": 0}
        self.whole: set[str] = set()
        self._add(json.loads(plan)[0]["Plan"])

    def _add(self, node: dict[str, Any]) -> None:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        if (table := node.get("Relation Name")) in self.rows and "Scan" in node["Node Type"]:
            self.rows[table] += round((node["Actual Rows"] + removed) * node["Actual Loops"])
            if node["Node Type"] == "Seq Scan":
                self.whole.add(table)
        for child in node.get("Plans", []):
            self._add(child)


async def _reads(conn: asyncpg.Connection, statement: str, *arguments: object) -> _Reads:
    reads = _Reads(await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments))
    assert reads.whole == set(), reads.plan
    return reads


async def test_a_claim_reads_what_it_takes(large: _Large, conn: asyncpg.Connection) -> None:
    types, places = ["imports:load", "reports:generate", "unknown"], [_BATCH, _BATCH, _BATCH]

    beginning = [[-(2**31)] * 3, [UUID(int=0)] * 3]

    reads = await _reads(conn, statements.CLAIM, large.worker_id, types, places, _BATCH, *beginning)

    # Each entry once to rank it, once to lock it, once to update it.
    assert 2 * _BATCH < reads.rows["queue"] <= 3 * _BATCH


@pytest.mark.parametrize(
    ("statement", "times"),
    [
        (statements.CONFIRM, 1),
        (statements.COMPLETE, 2),
        (statements.SETTLE_CANCELLED, 1),
        (statements.HAND_BACK, 2),
    ],
)
async def test_leases_are_looked_up_one_by_one(
    large: _Large, conn: asyncpg.Connection, statement: str, times: int
) -> None:
    reads = await _reads(conn, statement, large.held, large.fences)

    assert 0 < reads.rows["queue"] <= times * _BATCH


@pytest.mark.parametrize("delay", [None, timedelta(seconds=1)])
async def test_a_failure_is_looked_up_by_its_lease(
    large: _Large, conn: asyncpg.Connection, delay: timedelta | None
) -> None:
    reads = await _reads(conn, statements.FAIL, large.held, large.fences, [delay] * _BATCH)

    assert reads.rows["queue"] == 2 * _BATCH


async def test_a_cancellation_is_looked_up_by_its_id(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await _reads(conn, statements.CANCEL, large.held)).rows["queue"] <= 2 * _BATCH


async def test_a_heartbeat_reads_what_the_worker_holds(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await _reads(conn, statements.HEARTBEAT, large.worker_id, False)).rows["queue"] == _BATCH
    assert (await _reads(conn, statements.HELD_LEASES, large.worker_id)).rows["queue"] == _BATCH


async def test_a_rescue_reads_what_is_held(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await _reads(conn, statements.RESCUE, 1000)).rows["queue"] == _BATCH
    await conn.execute("DELETE FROM queue_workers")
    assert (await _reads(conn, statements.RESCUE, 10)).rows["queue"] <= _BATCH + 3 * 10


async def test_promotion_reads_what_is_due(large: _Large, conn: asyncpg.Connection) -> None:
    assert (await _reads(conn, statements.PROMOTE, 1000)).rows["queue"] == 0
    assert (await _reads(conn, statements.SECONDS_UNTIL_DUE)).rows["queue"] == 1
    await conn.execute(
        "UPDATE queue SET run_at = now() - interval '1 s' WHERE id IN"
        " (SELECT id FROM queue WHERE state = 'scheduled' LIMIT 500)"
    )
    assert (await _reads(conn, statements.PROMOTE, _BATCH)).rows["queue"] <= 2 * _BATCH


def _each(value: object) -> list[Any]:
    return [value] * _BATCH


@pytest.mark.parametrize(
    ("statement", "columns"),
    [
        (job_statements.START_JOBS, [_each(2)]),
        (job_statements.COMPLETE_JOBS, [_each("{}")]),
        (
            job_statements.FAIL_JOBS,
            [_each("pending"), _each(None), _each("BROKEN"), _each("It broke."), _each(True)],
        ),
        (job_statements.CANCEL_JOBS, []),
        (job_statements.REPORT_PROGRESS, [_each(50), _each("half way"), _each(None), _each(None)]),
        (job_statements.GET_CHANGED_JOBS, [_each(0)]),
    ],
)
async def test_jobs_are_looked_up_by_their_ids(
    large: _Large, conn: asyncpg.Connection, statement: str, columns: Sequence[list[Any]]
) -> None:
    assert (await _reads(conn, statement, large.jobs, *columns)).rows["jobs"] == _BATCH


async def test_one_job_is_looked_up_by_its_id(large: _Large, conn: asyncpg.Connection) -> None:
    job_id = large.jobs[0]

    assert (await _reads(conn, job_statements.GET_JOB, job_id, None)).rows["jobs"] == 1
    assert (await _reads(conn, job_statements.GET_STATUS, job_id, "acme")).rows["jobs"] <= 1
    assert (await _reads(conn, job_statements.RETRY_JOB, job_id, "acme", 1)).rows["jobs"] <= 1
    assert (await _reads(conn, job_statements.REQUEST_CANCELLATION, job_id)).rows["jobs"] <= 1


async def test_requests_are_looked_up_one_by_one(large: _Large, conn: asyncpg.Connection) -> None:
    requests = [str(1000 * number) for number in range(1, _BATCH + 1)]

    reads = await _reads(
        conn,
        job_statements.FIND_BY_REQUEST,
        list(range(_BATCH)),
        _each("acme"),
        requests,
        _each("reports:generate"),
        _each("{}"),
    )

    assert reads.rows["jobs"] == _BATCH


def _ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


_HOUR_OF_JOBS = 60


@pytest.mark.parametrize(
    ("filters", "most"),
    [
        (JobFilters("acme"), 2 * _PAGE),
        (JobFilters(None), 2 * _PAGE),
        (JobFilters("small"), 2 * _PAGE),
        (JobFilters("past"), 2 * _PAGE),
        (JobFilters("past", types=["reports:generate"], statuses=["completed"]), 3 * _PAGE),
        (JobFilters("acme", statuses=["failed"]), 2 * _PAGE),
        (JobFilters("acme", statuses=["failed", "pending", "completed"]), 4 * _PAGE),
        (JobFilters("acme", statuses=["failed", "cancelled"]), 2 * _PAGE),
        (JobFilters("acme", types=["imports:load"]), 2 * _PAGE),
        (JobFilters("acme", types=["imports:load", "reports:generate"]), 3 * _PAGE),
        (JobFilters("acme", types=["imports:load", "unknown"]), 2 * _PAGE),
        (JobFilters("acme", statuses=["failed"], types=["reports:generate"]), 2 * _PAGE),
        (JobFilters("acme", created_by="bob"), 2 * _PAGE),
        (JobFilters("acme", created_by="bob", statuses=["failed", "completed"]), 600),
        (JobFilters("acme", schedule_id=_SCHEDULE), 2 * _PAGE),
        (JobFilters(None, schedule_id=_SCHEDULE), 2 * _PAGE),
        (JobFilters("acme", metadata_json='{"order": 100005}'), 2),
        (JobFilters(None, metadata_json='{"order": 100005}'), 2),
        (JobFilters("acme", created_before=_ago(100)), 2 * _PAGE + _HOUR_OF_JOBS),
        (JobFilters(None, created_before=_ago(100)), 2 * _PAGE + _HOUR_OF_JOBS),
        (
            JobFilters("acme", created_after=_ago(10), created_before=_ago(10 - 1 / 24)),
            3 * _HOUR_OF_JOBS + _PAGE,
        ),
        (JobFilters("small", created_after=_ago(1)), 2 * _PAGE),
        (JobFilters("acme", statuses=["completed"], created_before=_ago(100)), 2 * _PAGE + _HOUR_OF_JOBS),
    ],
)
async def test_a_list_reads_little_more_than_its_page(
    conn: asyncpg.Connection, filters: JobFilters, most: int
) -> None:
    query = list_statement(filters, None, _PAGE).compile(dialect=dialect())  # type: ignore[no-untyped-call]
    arguments = [query.params[name] for name in query.positiontup or ()]

    reads = await _reads(conn, query.string, *arguments)

    assert reads.rows["jobs"] <= most, reads.plan


async def test_a_page_deep_in_a_list_costs_no_more_than_the_first(
    large: _Large, conn: asyncpg.Connection
) -> None:
    query = list_statement(JobFilters("acme"), large.jobs[0], _PAGE).compile(dialect=dialect())  # type: ignore[no-untyped-call]
    arguments = [query.params[name] for name in query.positiontup or ()]

    assert (await _reads(conn, query.string, *arguments)).rows["jobs"] <= 2 * _PAGE


async def _rows_read_in_sequence(conn: asyncpg.Connection) -> int:
    count: int = await conn.fetchval(
        "SELECT sum(seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname IN ('jobs', 'queue')"
    )
    return count


async def test_plans_made_while_the_tables_were_small_do_no_harm_later(database: Database) -> None:
    """A connection that has served a quiet time serves a sudden crowd by the indexes at once."""
    async with database.connection() as conn:
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
