"""What the statements of unique keys read of large tables, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from millrace_database import job_statements
from millrace_database.ids import new_id
from millrace_queue import line_statements, unique_statements
from support.large_tables import fill_jobs, filled_database, reads_of, rolled_back

_COUNT = 30_000
_BATCH = 100

_FILL = """
INSERT INTO queue (id, type, tenant, max_attempts, state, unique_key, unique_while, unique_slot, rank)
SELECT gen_random_uuid(), 'reports:generate', 'acme', 4, 'ready', 'key ' || n, 'unfinished', 'unfinished', n
FROM generate_series(1, $1::integer) AS n
"""
_FILL_PLAIN = """
INSERT INTO queue (id, type, tenant, max_attempts, state)
SELECT gen_random_uuid(), 'reports:generate', 'acme', 4, 'scheduled' FROM generate_series(1, $1::integer)
"""
_FILL_THROTTLES = """
INSERT INTO queue_throttles (unique_key, id, ends_at)
SELECT 'key ' || n, gen_random_uuid(), now() + n * interval '1 second' FROM generate_series(1, $1::integer) AS n
"""


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    with filled_database(postgres_url, _filled) as url:
        yield url


async def _filled(url: str, conn: asyncpg.Connection) -> str:
    await fill_jobs(conn, _COUNT, new_id())
    await conn.execute(_FILL, _COUNT)
    await conn.execute(_FILL_PLAIN, _COUNT)
    await conn.execute(_FILL_THROTTLES, _COUNT)
    await conn.execute("INSERT INTO queue_lines (type, priority) VALUES ('reports:generate', 0)")
    await conn.execute("ANALYZE jobs, queue, queue_lines, queue_throttles")
    return url


@pytest.fixture
async def conn(url: str) -> AsyncIterator[asyncpg.Connection]:
    async with rolled_back(url) as connection:
        yield connection


def _keys() -> list[str]:
    return [f"key {7 * number}" for number in range(1, _BATCH + 1)]


def _each(value: object) -> list[Any]:
    return [value] * _BATCH


def _columns(ids: list[Any]) -> list[list[Any]]:
    """What an entry with a unique key is made of."""
    ordinary = [_each("reports:generate"), _each("acme"), _each(4), _each(0), _each(0)]
    unique = [_keys(), _each("unfinished"), _each("unfinished")]
    return [ids, *ordinary, *[_each(None)] * 5, *unique]


async def test_who_has_a_key_is_looked_up_one_by_one(conn: asyncpg.Connection) -> None:
    places = list(range(_BATCH))

    reads = await reads_of(conn, unique_statements.FIND_HOLDERS, places, _keys(), _each("unfinished"))

    assert reads.rows["queue"] == _BATCH


async def test_coming_in_with_a_key_reads_two_entries_of_the_line(conn: asyncpg.Connection) -> None:
    ids = [new_id() for _ in range(_BATCH)]

    assert (await reads_of(conn, line_statements.ENQUEUE_UNIQUE, *_columns(ids))).rows["queue"] <= 4


async def test_a_replacement_reads_what_it_replaces(conn: asyncpg.Connection) -> None:
    rows = await conn.fetch(
        "SELECT id FROM queue JOIN unnest($1::text[]) WITH ORDINALITY AS wanted (key, place) ON key = unique_key "
        "ORDER BY place",
        _keys(),
    )
    ids = [row["id"] for row in rows]

    assert (await reads_of(conn, line_statements.REPLACE_WAITING, *_columns(ids))).rows[
        "queue"
    ] <= 2 * _BATCH + 4


async def test_jobs_are_replaced_and_deleted_by_their_ids(conn: asyncpg.Connection) -> None:
    ids = [row[0] for row in await conn.fetch("SELECT job_id FROM jobs LIMIT $1", _BATCH)]
    given = [_each("{}"), _each("{}"), _each(4), _each(0), _each(None), _each(None), _each(None)]

    assert (await reads_of(conn, job_statements.REPLACE_JOBS, ids, *given)).rows["jobs"] == _BATCH
    assert (await reads_of(conn, job_statements.FIND_OWNERS, ids)).rows["jobs"] == _BATCH
    assert (await reads_of(conn, job_statements.DELETE_JOBS, ids)).rows["jobs"] == _BATCH


async def test_throttled_keys_are_looked_up_one_by_one(conn: asyncpg.Connection) -> None:
    ids = [new_id() for _ in range(_BATCH)]

    entering = await reads_of(
        conn, unique_statements.ENTER_THROTTLES, _keys(), ids, _each(timedelta(hours=1))
    )
    finding = await reads_of(conn, unique_statements.FIND_THROTTLES, _keys())

    assert (entering.rows["queue_throttles"], finding.rows["queue_throttles"]) == (0, _BATCH)


async def test_ended_windows_are_found_by_their_ends(conn: asyncpg.Connection) -> None:
    await conn.execute("UPDATE queue_throttles SET ends_at = now() WHERE unique_key = ANY ($1)", _keys())

    assert (await reads_of(conn, unique_statements.REMOVE_ENDED_THROTTLES, 50)).rows["queue_throttles"] < 200
