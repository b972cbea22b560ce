"""What the statements of the repository of subscriptions read of a large table, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from millrace_database import subscription_statements as statements
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.large_tables import filled_database, reads_of

_TABLE = "job_subscriptions"
_ORGANISATIONS = 2_000
_EACH = 50

_FILL = """
INSERT INTO job_subscriptions (subscription_id, org_id, url, secret, event_types, state, request_id)
SELECT gen_random_uuid(), 'org' || org, 'https://example.com/', 'whsec_', '{job.failed}',
    CASE WHEN n % 5 = 0 THEN 'paused' ELSE 'enabled' END, 'r' || n
FROM generate_series(1, $1::integer) AS org, generate_series(1, $2::integer) AS n
"""


@pytest.fixture(scope="module")
def large_url(postgres_url: str) -> Iterator[str]:
    with filled_database(postgres_url, _filled) as url:
        yield url


async def _filled(url: str, conn: asyncpg.Connection) -> str:
    await conn.execute(_FILL, _ORGANISATIONS, _EACH)
    await conn.execute("ANALYZE job_subscriptions")
    return url


@pytest.fixture
async def conn(large_url: str) -> AsyncIterator[asyncpg.Connection]:
    database = await Database.open(large_url, application_name="test")
    try:
        async with database.connection() as connection:
            # As a statement has that is run again and again.
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            yield connection
    finally:
        await database.close()


@pytest.mark.parametrize("states", [[], ["paused"]])
async def test_a_list_reads_no_more_than_the_subscriptions_of_its_organisation(
    conn: asyncpg.Connection, states: list[str]
) -> None:
    assert (await reads_of(conn, statements.LIST, "org7", None, 100, states)).rows[_TABLE] <= _EACH


async def test_a_page_reads_no_more_than_itself(conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, statements.LIST, "org7", None, 10, [])).rows[_TABLE] <= 10


async def test_a_creation_reads_no_more_than_the_subscriptions_of_its_organisation(
    conn: asyncpg.Connection,
) -> None:
    assert (await reads_of(conn, statements.GET_BY_REQUEST, "org7", "r9")).rows[_TABLE] == 1
    values: tuple[object, ...] = (
        new_id(),
        "org7",
        "https://example.com/",
        "whsec_",
        ["job.failed"],
        [],
        "",
        [],
        "",
    )
    reads = await reads_of(conn, statements.INSERT, *values, _EACH, None)
    assert reads.rows[_TABLE] <= _EACH
