"""What lists of jobs read of large tables, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from millrace_database import bulk_job_control, job_waiting
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_entries import UNIQUE_KEY_PREFIX
from millrace_database.job_list_statement import JobFilters, list_statement, oldest_ids_statement
from millrace_database.job_waiting import MOST_BEFORE
from support.large_tables import Reads, fill_jobs, filled_database, reads_of
from support.queue_samples import new_worker

_JOBS = 200_000
_WAITING = 60_000
_RUNNING = 100
_FAILED = 20_000
_PAGE = 50
_SCHEDULE = new_id()
_SCHEDULE_OF_WAITING = new_id()
_PARENT = new_id()

# An organisation with nothing but waiting jobs, newer than the jobs of others, half of them for later.
_FILL_WAITING = """
INSERT INTO jobs (job_id, org_id, type, created_by, run_at, max_attempts, schedule_id)
SELECT
    (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '70008001' || lpad(to_hex(n), 12, '0'))::uuid,
    'flood',
    CASE WHEN n % 1000 = 2 THEN 'imports:load' ELSE 'reports:generate' END,
    CASE WHEN n % 1000 = 6 THEN 'bob' ELSE 'ann' END,
    CASE WHEN n % 2 = 1 THEN now() ELSE now() + interval '1 day' END,
    4,
    CASE WHEN n % 1000 = 7 THEN $2::uuid END
FROM generate_series(1, $1::integer) AS n
"""
_FILL_QUEUE = """
INSERT INTO queue (id, type, tenant, max_attempts, state, run_at, rank)
SELECT job_id, type, org_id, 4, CASE WHEN run_at > now() THEN 'scheduled' ELSE 'ready' END, run_at,
    row_number() OVER (ORDER BY job_id) * 1000000
FROM jobs
WHERE status = 'pending'
"""
# The oldest are running, as they are where jobs are claimed in order; one is to be cancelled.
_HOLD = """
UPDATE queue
SET state = 'running', gated = true, attempt = 1, fence = nextval('queue_fence'), worker_id = $1
WHERE id IN (SELECT id FROM queue WHERE state = 'ready' AND tenant = 'flood' ORDER BY id LIMIT $2::integer)
"""
_START = """
UPDATE jobs SET status = CASE WHEN job_id = (SELECT max(id::text)::uuid FROM queue WHERE state = 'running') THEN 'cancelling' ELSE 'processing' END
WHERE job_id IN (SELECT id FROM queue WHERE state = 'running')
"""
# An organisation with nothing but failed jobs, most of them by the same error.
_FILL_FAILED = """
INSERT INTO jobs (job_id, org_id, type, status, created_at, completed_at, max_attempts, error_code)
SELECT
    (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0') || '70008002' || lpad(to_hex(n), 12, '0'))::uuid,
    'broken', 'reports:generate', 'failed', time, time, 4, CASE WHEN n % 1000 = 3 THEN 'RARE' ELSE 'TIMEOUT' END
FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT now() - n * interval '1 second' AS time) AS derived
"""

# Every tenth job was made for another one, a few of the old ones for the same.
_SET_PARENTS = """
UPDATE jobs SET parent_job_id = CASE WHEN request_id::integer % 50000 = 48 THEN $1::uuid ELSE gen_random_uuid() END
WHERE request_id::integer % 10 = 8
"""


@pytest.fixture(scope="module")
def large_url(postgres_url: str) -> Iterator[str]:
    with filled_database(postgres_url, _filled) as url:
        yield url


async def _filled(url: str, conn: asyncpg.Connection) -> str:
    await fill_jobs(conn, _JOBS, _SCHEDULE)
    await conn.execute(_SET_PARENTS, _PARENT)
    await conn.execute(_FILL_WAITING, _WAITING, _SCHEDULE_OF_WAITING)
    await conn.execute(_FILL_FAILED, _FAILED)
    await conn.execute(_FILL_QUEUE)
    await conn.execute("INSERT INTO queue_lines (type, priority) SELECT DISTINCT type, priority FROM queue")
    await conn.execute(_HOLD, await new_worker(conn), _RUNNING)
    await conn.execute(_START)
    await conn.execute("ANALYZE jobs, queue")
    return url


@pytest.fixture
async def conn(large_url: str) -> AsyncIterator[asyncpg.Connection]:
    database = await Database.open(large_url, application_name="test")
    try:
        async with database.connection() as connection:
            yield connection
    finally:
        await database.close()


async def _reads(conn: asyncpg.Connection, filters: JobFilters, after: UUID | None = None) -> Reads:
    return await _reads_of(conn, list_statement(filters, after, _PAGE))


async def _reads_of(conn: asyncpg.Connection, statement: Select[Any]) -> Reads:
    query = statement.compile(dialect=dialect())  # type: ignore[no-untyped-call]
    arguments = [query.params[name] for name in query.positiontup or ()]
    return await reads_of(conn, query.string, *arguments)


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
        (JobFilters("acme", statuses=["failed", "pending", "completed"]), 5 * _PAGE),
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
    reads = await _reads(conn, filters)

    assert reads.rows["jobs"] <= most, reads.plan
    assert reads.rows["queue"] <= 2 * _PAGE, reads.plan


@pytest.mark.parametrize("org_id", ["acme", None])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"statuses": ["completed"]},
        {"statuses": ["pending", "failed"]},
        {"types": ["imports:load", "reports:generate"]},
        {"created_by": "ann"},
        {"error_codes": ["RARE"]},
        {"created_after": _ago(1000)},
        {"metadata_json": '{"order": 100005}'},
    ],
)
async def test_the_jobs_made_for_one_are_found_by_themselves(
    conn: asyncpg.Connection, org_id: str | None, more: dict[str, Any]
) -> None:
    reads = await _reads(conn, JobFilters(org_id, parent_job_id=_PARENT, **more))

    # 4 of them, read once to find them and once to show them.
    assert reads.rows["jobs"] <= 2 * 4 * len(more.get("types", ["any"])), reads.plan
    assert reads.rows["queue"] == 0, reads.plan


_WHAT_WAITS = ["pending"]
_WHAT_RUNS = ["processing", "cancelling"]
_UNFINISHED = [*_WHAT_WAITS, *_WHAT_RUNS]


@pytest.mark.parametrize(
    ("filters", "most_jobs", "most_entries"),
    [
        (JobFilters("flood", _WHAT_WAITS), 2 * _PAGE, _PAGE),
        (JobFilters("flood", ["processing"]), _RUNNING + _PAGE, _RUNNING),
        (JobFilters("flood", ["cancelling"]), _RUNNING + 2, _RUNNING),
        (JobFilters("flood", _WHAT_RUNS), _RUNNING + _PAGE, _RUNNING),
        (JobFilters("flood", _UNFINISHED), _RUNNING + 2 * _PAGE, _RUNNING + _PAGE),
        (JobFilters("flood", [*_UNFINISHED, "failed", "cancelled"]), _RUNNING + 2 * _PAGE, _RUNNING + _PAGE),
        (JobFilters("flood", ["failed"]), 0, 0),
        (JobFilters("acme", _WHAT_WAITS), 2 * _PAGE, _PAGE),
        (JobFilters("past", _WHAT_WAITS), 2 * _PAGE, _PAGE),
        (JobFilters("acme", ["processing"]), 0, _RUNNING),
        (JobFilters(None, _WHAT_WAITS), 2 * _PAGE, _PAGE),
        (JobFilters(None, _WHAT_RUNS), _RUNNING + _PAGE, _RUNNING),
        (JobFilters(None, ["failed"]), 2 * _PAGE, 0),
        (JobFilters(None, ["failed", "cancelled", "pending"]), 3 * _PAGE, _PAGE),
        (JobFilters("acme", ["completed", "failed", "cancelled"]), 4 * _PAGE, 0),
        (
            JobFilters("acme", ["completed", "pending"], ["imports:load", "reports:generate"]),
            5 * _PAGE,
            2 * _PAGE,
        ),
        (JobFilters("acme", ["failed"], ["imports:load", "reports:generate"]), 2 * _PAGE, 0),
        (JobFilters("flood", _WHAT_WAITS, ["imports:load", "reports:generate"]), 2 * _PAGE, _PAGE),
        (JobFilters("flood", _WHAT_WAITS, created_by="ann"), 2 * _PAGE, _PAGE),
        (JobFilters("flood", _WHAT_WAITS, created_by="bob"), 400, 2 * _PAGE),
        (JobFilters("acme", _WHAT_WAITS, created_by="ann"), 2 * _PAGE, _PAGE),
        (JobFilters(None, _WHAT_WAITS, created_by="ann"), 3 * _PAGE, _PAGE),
        (JobFilters("flood", _WHAT_WAITS, schedule_id=_SCHEDULE_OF_WAITING), 400, 2 * _PAGE),
        (JobFilters("flood", _WHAT_WAITS, metadata_json='{"order": 100005}'), 2, 1),
        (JobFilters("flood", _WHAT_WAITS, created_after=_ago(1)), 2 * _PAGE, _PAGE),
        (JobFilters("flood", _WHAT_WAITS, created_before=_ago(1)), 0, 0),
        (JobFilters(None, _WHAT_WAITS, created_before=_ago(100)), 2 * _PAGE, _PAGE),
        (JobFilters("acme", ["failed"], created_before=_ago(100)), 2 * _PAGE + 1, 0),
        (JobFilters("broken", error_codes=["RARE"]), 2 * 20, 0),
        (JobFilters("broken", error_codes=["TIMEOUT"]), 2 * _PAGE, 0),
        (JobFilters("broken", ["failed"], error_codes=["RARE"]), 2 * 20, 0),
        (JobFilters("broken", ["failed"], error_codes=["RARE", "TIMEOUT"]), 3 * _PAGE, 0),
        (JobFilters("broken", ["failed"], ["reports:generate"], error_codes=["TIMEOUT"]), 2 * _PAGE, 0),
        (JobFilters("broken", ["completed", *_WHAT_RUNS], error_codes=["TIMEOUT"]), 0, 0),
        (JobFilters(None, ["failed"], error_codes=["RARE"]), 2 * 24, 0),
        (JobFilters(None, ["failed"], error_codes=["TIMEOUT"]), 2 * _PAGE, 0),
    ],
)
async def test_a_list_by_status_goes_by_what_the_status_leaves(
    conn: asyncpg.Connection, filters: JobFilters, most_jobs: int, most_entries: int
) -> None:
    reads = await _reads(conn, filters)

    assert reads.rows["jobs"] <= most_jobs, reads.plan
    assert reads.rows["queue"] <= most_entries, reads.plan


@pytest.mark.parametrize(
    ("org_id", "statuses"),
    [("acme", []), ("flood", ["pending"]), (None, ["pending"]), ("acme", ["failed"]), (None, ["failed"])],
)
async def test_a_page_deep_in_a_list_costs_no_more_than_the_first(
    conn: asyncpg.Connection, org_id: str | None, statuses: list[str]
) -> None:
    filters = JobFilters(org_id, statuses)
    middle = """
        SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY job_id) FROM jobs
        WHERE ($1::text IS NULL OR org_id = $1) AND ($2::text[] = '{}' OR status = ANY ($2::text[]))
    """

    reads = await _reads(conn, filters, await conn.fetchval(middle, org_id, statuses))

    assert 0 < reads.rows["jobs"] <= 2 * _PAGE, reads.plan
    assert reads.rows["queue"] <= _PAGE, reads.plan


_CANCELLABLE = ["pending", "processing"]


@pytest.mark.parametrize(
    ("filters", "most_jobs", "most_entries"),
    [
        (JobFilters("acme", ["failed"]), _PAGE, 0),
        (JobFilters(None, ["failed"]), _PAGE, 0),
        (JobFilters("acme", ["failed", "cancelled"]), _PAGE, 0),
        (JobFilters("broken", ["failed"], error_codes=["RARE"]), 20, 0),
        (JobFilters("acme", ["failed"], error_codes=["RARE"]), 4, 0),
        (JobFilters(None, ["failed"], error_codes=["RARE"]), 24, 0),
        (JobFilters("broken", ["failed"], error_codes=["TIMEOUT"]), _PAGE, 0),
        (JobFilters(None, ["failed"], error_codes=["TIMEOUT"]), _PAGE, 0),
        (JobFilters("broken", ["failed", "cancelled"], error_codes=["RARE", "TIMEOUT"]), 2 * _PAGE, 0),
        (JobFilters(None, ["failed"], error_codes=["UNKNOWN"]), 0, 0),
        (JobFilters("acme", ["failed"], ["reports:generate"]), _PAGE, 0),
        (JobFilters("acme", ["failed"], ["imports:load"]), 200, 0),
        (JobFilters("acme", ["failed"], created_by="bob"), 200, 0),
        (JobFilters("acme", ["failed"], schedule_id=_SCHEDULE), 200, 0),
        (JobFilters("acme", ["failed"], metadata_json='{"order": 100005}'), 1, 0),
        (JobFilters("acme", ["failed"], created_after=_ago(10), created_before=_ago(5)), _PAGE, 0),
        (JobFilters("flood", _CANCELLABLE), _PAGE + _RUNNING, _PAGE + _RUNNING),
        (JobFilters(None, _CANCELLABLE), _PAGE + _RUNNING, _PAGE + _RUNNING),
        (JobFilters("flood", _CANCELLABLE, ["reports:generate"]), _PAGE + _RUNNING, _PAGE + _RUNNING + 5),
        (JobFilters("flood", _CANCELLABLE, created_by="bob"), 600, 600),
        (JobFilters("flood", _CANCELLABLE, schedule_id=_SCHEDULE_OF_WAITING), 400, _RUNNING + 2 * _PAGE),
        (JobFilters("flood", _CANCELLABLE, metadata_json='{"order": 100005}'), 2, _RUNNING + 1),
        (JobFilters("flood", _CANCELLABLE, created_after=_ago(1)), _PAGE + _RUNNING, _PAGE + _RUNNING),
        (JobFilters("flood", _CANCELLABLE, created_before=_ago(1)), _RUNNING, _RUNNING),
    ],
)
async def test_the_oldest_jobs_are_found_by_little_more_than_themselves(
    conn: asyncpg.Connection, filters: JobFilters, most_jobs: int, most_entries: int
) -> None:
    reads = await _reads_of(conn, oldest_ids_statement(filters, None, _PAGE))

    assert reads.rows["jobs"] <= most_jobs, reads.plan
    assert reads.rows["queue"] <= most_entries, reads.plan


@pytest.mark.parametrize(
    "filters",
    [
        JobFilters("acme", ["failed"]),
        JobFilters("broken", ["failed"], error_codes=["TIMEOUT"]),
        JobFilters(None, ["failed"], error_codes=["TIMEOUT"]),
        JobFilters("flood", ["pending"]),
        JobFilters(None, ["pending"]),
    ],
)
async def test_the_oldest_jobs_behind_a_place_are_found_as_quickly(
    conn: asyncpg.Connection, filters: JobFilters
) -> None:
    middle = """
        SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY job_id) FROM jobs
        WHERE ($1::text IS NULL OR org_id = $1) AND status = $2
    """
    after = await conn.fetchval(middle, filters.org_id, filters.statuses[0])

    reads = await _reads_of(conn, oldest_ids_statement(filters, after, _PAGE))

    assert 0 < reads.rows["jobs"] <= 2 * _PAGE, reads.plan
    assert reads.rows["queue"] <= _PAGE, reads.plan


_WAITING_AT = (
    "SELECT id FROM queue WHERE state = 'ready' AND tenant = 'flood' ORDER BY rank OFFSET $1 LIMIT 1"
)


@pytest.mark.parametrize(
    ("place", "most"), [(0, 6 * _RUNNING), (1000, 1000 + 6 * _RUNNING), (25_000, MOST_BEFORE + 6 * _RUNNING)]
)
async def test_why_a_job_waits_is_found_by_what_comes_before_it(
    conn: asyncpg.Connection, place: int, most: int
) -> None:
    await conn.execute("INSERT INTO queue_types (type) VALUES ('reports:generate') ON CONFLICT DO NOTHING")
    await conn.execute("UPDATE queue_types SET max_running = 200, max_running_per_tenant = 200")
    await conn.execute(
        "INSERT INTO queue_tenants (tenant, max_running) VALUES ('flood', 200) ON CONFLICT DO NOTHING"
    )
    job_id = await conn.fetchval(_WAITING_AT, place)

    reads = await reads_of(conn, job_waiting.FACTS, job_id, MOST_BEFORE, UNIQUE_KEY_PREFIX)

    facts = await job_waiting.get_waiting_facts(conn, job_id)
    assert facts is not None
    assert place - 200 <= facts.jobs_before <= place + 200 or facts.jobs_before == MOST_BEFORE
    assert reads.rows["queue"] <= most, reads.plan


async def test_a_batch_that_is_retried_reads_its_own_rows(conn: asyncpg.Connection) -> None:
    ids = await conn.fetch("SELECT job_id FROM jobs WHERE outcome = 'failed' AND org_id = 'broken' LIMIT 100")
    batch = [job_id for (job_id,) in ids]

    lock = await reads_of(conn, bulk_job_control.LOCK_RETRYABLE, batch, ["failed"], 4)
    transaction = conn.transaction()
    await transaction.start()
    change = await reads_of(conn, bulk_job_control.RETRY, batch, [4] * len(batch))
    await transaction.rollback()
    assert lock.rows["jobs"] <= len(batch), lock.plan
    assert change.rows["jobs"] <= len(batch), change.plan
