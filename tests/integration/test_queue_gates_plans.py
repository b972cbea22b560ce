from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from millrace_database.ids import new_id
from millrace_queue import (
    TypeGates,
    claim_statements,
    gate_statements,
    set_tenant,
    set_type_limits,
    sweep_statements,
)
from support.gates import claimed, completed
from support.large_tables import filled_database, reads_of, rolled_back
from support.queue_samples import new_worker

_PARKED = 100_000
_FILL = """
INSERT INTO queue (id, type, tenant, max_attempts, state, rank, parked_by, concurrency_key, concurrency_limit, key_order)
SELECT gen_random_uuid(), 'a', 'flood', 4, 'parked', n, CASE WHEN n % 2 = 0 THEN 'tenant' ELSE 'key' END,
    CASE WHEN n % 2 = 1 THEN 'k' END, CASE WHEN n % 2 = 1 THEN 1 END, CASE WHEN n % 4 = 1 THEN 'block' END
FROM generate_series(1, $1::integer) AS n
UNION ALL
SELECT gen_random_uuid(), type, 't' || n, 4, 'ready', n, NULL, NULL, NULL, NULL
FROM generate_series(1, 10000) AS n, unnest('{a,b}'::text[]) AS type
"""

_UNMARKED = 500
_CLAIM_UNMARKED = """
UPDATE queue SET state = 'running', attempt = 1, fence = nextval('queue_fence'), worker_id = $1
WHERE id IN (SELECT id FROM queue WHERE state = 'ready' AND type = 'a' LIMIT $2::integer)
"""


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[str]:
    with filled_database(postgres_url, _filled) as url:
        yield url


async def _filled(url: str, conn: asyncpg.Connection) -> str:
    # Before anything is parked: what a limit lets start is put back into line when it is set.
    await set_tenant(conn, "flood", max_running=5)
    await conn.execute(_FILL, _PARKED)
    await conn.execute("INSERT INTO queue_lines (type, priority) VALUES ('a', 0), ('b', 0)")
    await set_type_limits(conn, "a", TypeGates(max_running=200, max_running_per_tenant=2))
    await conn.execute("ANALYZE queue, queue_types, queue_tenants, queue_lines")
    return url


@pytest.fixture
async def conn(large: str) -> AsyncIterator[asyncpg.Connection]:
    async with rolled_back(large) as connection:
        yield connection


async def test_a_claim_at_gates_reads_what_it_takes(conn: asyncpg.Connection) -> None:
    worker_id = await new_worker(conn)

    assert (
        await reads_of(conn, claim_statements.CLAIM_BESIDE_GATES, worker_id, ["a", "b"], [50, 50], 50)
    ).rows["queue"] <= 200
    assert (await reads_of(conn, gate_statements.CANDIDATES, ["a"], [50])).rows["queue"] <= 50
    arrays = (["a"], ["a"], ["flood"], ["flood"], ["a"], ["flood"], ["k"])
    assert (await reads_of(conn, gate_statements.RUNNING, *arrays, False)).rows["queue"] <= 5
    first = (worker_id, ["a"], [50], False)
    assert (await reads_of(conn, gate_statements.START_FIRST, *first)).rows["queue"] <= 100


async def test_a_release_reads_what_it_lets_go(conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, gate_statements.READ_LEFT_TYPES, ["a"])).rows["queue"] <= 1
    parked_at = (["a"], ["flood"], ["a"], ["flood"], ["k"], ["flood"])
    assert (await reads_of(conn, gate_statements.PARKED_AT, *parked_at)).rows["queue"] <= 5
    go = (["a"], ["flood"], [3], [False])
    assert (await reads_of(conn, gate_statements.LET_TENANTS_GO, *go)).rows["queue"] <= 20
    go_keys = (["a"], ["flood"], ["k"], [0])
    assert (await reads_of(conn, gate_statements.LET_KEYS_GO, *go_keys)).rows["queue"] <= 20
    head = await conn.fetchval("SELECT id FROM queue WHERE key_order IS NOT NULL LIMIT 1")
    assert (await reads_of(conn, gate_statements.LET_HEADS_GO, [head])).rows["queue"] <= 20


async def test_a_sweep_reads_one_entry_of_what_is_parked_together(conn: asyncpg.Connection) -> None:
    await conn.execute("UPDATE queue_tenants SET paused = true")
    size = sweep_statements.BATCH
    assert (await reads_of(conn, sweep_statements.OVERVIEW, "", 10)).rows["queue"] <= 2
    assert (await reads_of(conn, sweep_statements.SHARES_WITH_PARKED, "", "", size)).rows["queue"] <= 2
    assert (await reads_of(conn, sweep_statements.KEYS_WITH_PARKED, "", "", "", size)).rows["queue"] <= 2
    assert (await reads_of(conn, sweep_statements.MARK_GATED, size)).rows["queue"] == 0
    reads = await reads_of(conn, sweep_statements.PARK_PAUSED, ["flood"], size)
    assert reads.rows["queue"] == 0, reads.plan


async def test_a_sweep_reads_each_entry_that_it_marks_a_few_times(conn: asyncpg.Connection) -> None:
    await conn.execute(_CLAIM_UNMARKED, await new_worker(conn), _UNMARKED)

    reads = await reads_of(conn, sweep_statements.MARK_GATED, sweep_statements.BATCH)

    # Found, locked, and changed.
    assert reads.rows["queue"] <= 3 * _UNMARKED, reads.plan
    assert await conn.fetchval("SELECT count(*) FROM queue WHERE gated") == _UNMARKED


async def test_whoever_is_not_in_the_flood_is_served_beside_it(conn: asyncpg.Connection) -> None:
    worker_id = await new_worker(conn)
    await conn.execute(
        """INSERT INTO queue (id, type, tenant, max_attempts, rank) VALUES ($1, 'a', 'late', 4, 20000)""",
        new_id(),
    )
    claims = await claimed(conn, worker_id, "a", limit=100)
    assert len(claims) == 100
    await completed(conn, claims)
