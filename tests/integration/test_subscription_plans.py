"""What events and the health of subscriptions read of large tables, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database import job_statements, subscription_event_statements, subscription_health
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.large_tables import fill_jobs, filled_database, reads_of
from support.queue_samples import new_worker

_JOBS = 50_000
_SUBSCRIPTIONS = 100_000
_BATCH = 500
_OWN = 3
_FAILING = 20

# Ten of each organisation, most of them enabled; some of them fail for an hour, few for a day.
_FILL = """
INSERT INTO job_subscriptions (
    subscription_id, org_id, url, secret, event_types, job_types, state, disabled_at, failing_since, failed_attempts,
    last_failure_at
)
SELECT gen_random_uuid(), 'org ' || n / 10, 'https://example.com', 'whsec_', '{job.completed,subscription.disabled}',
    CASE WHEN n % 2 = 0 THEN '{imports:load}'::text[] ELSE '{}' END,
    CASE WHEN n % 10 = 0 THEN 'disabled' ELSE 'enabled' END, CASE WHEN n % 10 = 0 THEN now() END,
    CASE WHEN n % 100 = 1 THEN now() - CASE WHEN n <= 100 * $2::integer THEN interval '2 days' ELSE interval '1 hour' END END,
    CASE WHEN n % 100 = 1 THEN 50 ELSE 0 END, CASE WHEN n % 100 = 1 THEN now() END
FROM generate_series(1, $1::integer) AS n
"""
_FILL_OWN = """
INSERT INTO job_subscriptions (subscription_id, org_id, url, secret, event_types)
SELECT gen_random_uuid(), 'acme', 'https://example.com', 'whsec_', '{job.completed,job.failed,job.cancelled}'
FROM generate_series(1, $1::integer)
"""
_HOLD = """
INSERT INTO queue (id, type, tenant, max_attempts, state, rank, attempt, fence, worker_id)
SELECT job_id, type, org_id, 4, 'running', 0, 1, nextval('queue_fence'), $2 FROM jobs WHERE job_id = ANY ($1)
RETURNING id, fence
"""


@dataclass(frozen=True)
class _Large:
    url: str
    jobs: list[UUID]
    fences: list[int]
    subscriptions: list[UUID]


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[_Large]:
    with filled_database(postgres_url, _filled) as filled:
        yield filled


async def _filled(url: str, conn: asyncpg.Connection) -> _Large:
    await fill_jobs(conn, _JOBS, new_id())
    await conn.execute(_FILL, _SUBSCRIPTIONS, _FAILING)
    await conn.execute(_FILL_OWN, _OWN)
    jobs = await conn.fetch(
        "SELECT job_id FROM jobs WHERE org_id = 'acme' AND status = 'completed' LIMIT $1", _BATCH
    )
    held = await conn.fetch(_HOLD, [row["job_id"] for row in jobs], await new_worker(conn))
    rows = await conn.fetch("SELECT subscription_id FROM job_subscriptions WHERE org_id = 'acme'")
    await conn.execute("ANALYZE")
    ids, fences = [row["id"] for row in held], [row["fence"] for row in held]
    return _Large(url, ids, fences, [row["subscription_id"] for row in rows])


@pytest.fixture(params=[False, True], ids=["plans made anew", "plans kept"])
async def conn(large: _Large, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that is rolled back."""
    database = await Database.open(large.url, application_name="test", keep_plans=request.param)
    try:
        async with database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            yield connection
            await transaction.rollback()
    finally:
        await database.close()


async def test_a_completion_looks_whether_there_is_one_subscription(
    large: _Large, conn: asyncpg.Connection
) -> None:
    columns = [large.jobs, large.fences, ["{}"] * _BATCH]
    reads = await reads_of(conn, job_statements.COMPLETE_PLAIN_JOBS, *columns)
    assert reads.rows["job_subscriptions"] == _BATCH
    assert reads.rows["jobs"] == 0
    await conn.execute("DELETE FROM job_subscriptions WHERE org_id = 'acme'")
    reads = await reads_of(conn, job_statements.COMPLETE_PLAIN_JOBS, *columns)
    assert reads.rows["job_subscriptions"] <= _BATCH * _OWN
    assert reads.rows["jobs"] == _BATCH


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
async def test_the_end_of_jobs_reads_the_subscriptions_of_their_organisations(
    large: _Large, conn: asyncpg.Connection, end: str
) -> None:
    nothing = [None] * _BATCH
    statements: dict[str, tuple[str, list[Any]]] = {
        "complete": (job_statements.COMPLETE_JOBS, [["{}"] * _BATCH]),
        "fail": (
            job_statements.FAIL_JOBS,
            [["failed"] * _BATCH, *[nothing] * 3, [False] * _BATCH, [True] * _BATCH],
        ),
        "cancel": (job_statements.CANCEL_JOBS, []),
    }
    statement, columns = statements[end]
    reads = await reads_of(conn, statement, large.jobs, *columns)
    assert (reads.rows["jobs"], reads.rows["job_subscriptions"]) == (_BATCH, _BATCH * _OWN)


async def test_events_are_made_of_the_jobs_that_ended(large: _Large, conn: asyncpg.Connection) -> None:
    pairs = [(job_id, subscriber) for job_id in large.jobs for subscriber in large.subscriptions]
    columns = [[new_id() for _ in pairs], [one for one, _ in pairs], [other for _, other in pairs], 4]
    reads = await reads_of(conn, subscription_event_statements.CREATE_EVENTS, *columns)
    assert reads.rows["jobs"] == len(pairs)
    assert await conn.fetchval("SELECT count(*) FROM jobs WHERE parent_job_id IS NOT NULL") == len(pairs)


async def test_an_event_is_sent_by_ids(large: _Large, conn: asyncpg.Connection) -> None:
    subscription_id, job_id = large.subscriptions[0], large.jobs[0]
    reads = await reads_of(conn, subscription_event_statements.GET_RECEIVER, subscription_id, "acme", job_id)
    assert (reads.rows["job_subscriptions"], reads.rows["jobs"]) == (1, 1)
    reads = await reads_of(conn, subscription_event_statements.GET_ENDED_JOB, job_id, "acme", None)
    assert reads.rows["jobs"] == 1
    for statement in (subscription_health.RECORD_SUCCESS, subscription_health.RECORD_FAILURE):
        columns = [1, "failed"] if "$2" in statement else []
        reads = await reads_of(conn, statement, subscription_id, *columns)
        assert reads.rows["job_subscriptions"] == 1


async def test_the_monitor_reads_what_has_failed_for_long(large: _Large, conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, subscription_health.DISABLE_FAILING, timedelta(days=1), 10, 100)
    # Each once to find it, and once to change it.
    assert reads.rows["job_subscriptions"] == 2 * _FAILING
    assert (
        await conn.fetchval("SELECT count(*) FROM job_subscriptions WHERE disabled_reason <> ''") == _FAILING
    )
    organisations = [f"org {number}" for number in range(_FAILING)]
    reads = await reads_of(conn, subscription_health.FIND_LISTENERS, organisations, "subscription.disabled")
    assert reads.rows["job_subscriptions"] <= 10 * _FAILING
