import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_queue import (
    ClaimGates,
    Rate,
    SweepProgress,
    TypeGates,
    claim,
    complete,
    enqueue,
    set_tenant,
    set_type_limits,
    sweep_gates,
)
from support.gates import claimed, completed, entry, states, swept
from support.queue_samples import PLENTY, new_worker

_PERIOD = timedelta(milliseconds=300)
_LONG = timedelta(hours=1)


async def _starts(conn: asyncpg.Connection, worker_id: UUID, count: int) -> list[datetime]:
    """When so many entries were started, by a worker that comes when a rate opens and sweeps then."""
    starts: list[datetime] = []
    progress = SweepProgress()
    while len(starts) < count:
        gates = ClaimGates()
        async with conn.transaction():
            claims = await claim(conn, worker_id, {"a": PLENTY, "b": PLENTY}, PLENTY, gates=gates)
            starts += [await conn.fetchval("SELECT now()")] * len(claims)
            await complete(conn, [claim_.lease for claim_ in claims])
        if len(starts) < count:
            assert gates.opens_in is not None or gates.again
            await asyncio.sleep(gates.opens_in or 0)
            await sweep_gates(conn, progress)
    return starts


async def _set_rate(conn: asyncpg.Connection, of: str, rate: Rate) -> None:
    match of:
        case "type":
            await set_type_limits(conn, "a", TypeGates(rate=rate))
        case "tenant of a type":
            await set_type_limits(conn, "a", TypeGates(tenant_rate=rate))
        case _:
            await set_tenant(conn, "A", rate=rate)


def _most_in_a_period(starts: Sequence[datetime]) -> int:
    return max(sum(1 for other in starts if start <= other <= start + _PERIOD) for start in starts)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("of", ["type", "tenant of a type", "tenant"])
async def test_no_more_start_in_any_period_than_may(database: Database, of: str, smooth: bool) -> None:
    rate = Rate(6, _PERIOD, smooth)
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await _set_rate(conn, of, rate)
        await enqueue(conn, [entry() for _ in range(20)])

        starts = await _starts(conn, worker_id, 20)

    assert _most_in_a_period(starts) <= 6
    assert starts.count(starts[0]) == (1 if smooth else 6)
    # Three full periods and two more starts, or 19 steps of 50 ms.
    assert starts[-1] - starts[0] >= (18 * _PERIOD / 6 if smooth else 3 * _PERIOD)


async def test_each_tenant_of_a_type_has_its_own_rate(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(tenant_rate=Rate(2, _LONG)))
        await enqueue(conn, [entry("a", tenant) for tenant in "ABC" for _ in range(5)])

        gates = ClaimGates()
        claims = await claimed(conn, worker_id, gates=gates)

        assert sorted(claim_.tenant for claim_ in claims) == ["A", "A", "B", "B", "C", "C"]
        await completed(conn, claims)
        await swept(conn)
        assert await claimed(conn, worker_id) == []
        assert await states(conn) == {"tenant": 9}
        assert gates.opens_in is not None
        assert gates.opens_in > 3000


async def test_rates_hold_together_with_each_other_and_with_limits(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(
            conn, "a", TypeGates(max_running=4, rate=Rate(7, _LONG), tenant_rate=Rate(3, _LONG))
        )
        await set_tenant(conn, "A", rate=Rate(2, _LONG))
        await enqueue(conn, [entry("a", tenant) for tenant in "ABCD" for _ in range(5)])

        claims = await claimed(conn, worker_id)
        assert len(claims) == 4
        await completed(conn, claims)
        claims += await claimed(conn, worker_id)

    assert len(claims) == 7
    assert sum(1 for claim_ in claims if claim_.tenant == "A") <= 2


async def test_a_rate_that_is_used_up_is_known_to_the_next_claim(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(rate=Rate(2, _LONG)))
        await enqueue(conn, [entry(type_) for type_ in "ab" for _ in range(5)])
        await claimed(conn, worker_id, "a")
        gates = ClaimGates()

        claims = await claimed(conn, worker_id, "a", "b", limit=5, gates=gates)

        assert [claim_.type for claim_ in claims] == ["b"] * 5
        assert gates.gated == {"a"}
        assert gates.opens_in is not None
        assert 3500 < gates.opens_in <= 3600.001


async def test_a_rate_is_changed(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(rate=Rate(2, _LONG), tenant_rate=Rate(2, _LONG)))
        await enqueue(conn, [entry() for _ in range(20)])
        assert len(await claimed(conn, worker_id)) == 2
        assert await claimed(conn, worker_id) == []

        await set_type_limits(conn, "a", TypeGates(rate=Rate(5, _LONG), tenant_rate=Rate(6, _LONG)))
        await swept(conn)
        assert len(await claimed(conn, worker_id)) == 3
        await set_type_limits(conn, "a", TypeGates())
        await swept(conn)
        assert len(await claimed(conn, worker_id)) == 15


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("of", ["type", "tenant of a type", "tenant"])
async def test_a_rate_goes_on_after_the_clock_was_set_back(database: Database, of: str, smooth: bool) -> None:
    rate = Rate(6, _PERIOD, smooth)
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await _set_rate(conn, of, rate)
        await enqueue(conn, [entry() for _ in range(26)])
        await _starts(conn, worker_id, 6)
        await conn.execute(
            """UPDATE queue_rates SET next_at = next_at + interval '1 day', idle_at = idle_at + interval '1 day',
            start_times = ARRAY(SELECT time + interval '1 day' FROM unnest(start_times) AS time)"""
        )
        await swept(conn)

        async with asyncio.timeout(60):
            starts = await _starts(conn, worker_id, 20)

    assert _most_in_a_period(starts) <= 6
    assert starts[-1] - starts[0] >= (18 * _PERIOD / 6 if smooth else 3 * _PERIOD)


async def test_a_limit_that_is_set_anew_forgets_starts_from_before_the_clock_was_set_back(
    database: Database,
) -> None:
    rate = Rate(2, _LONG)
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(rate=rate))
        await set_tenant(conn, "A", rate=rate)
        await enqueue(conn, [entry()])
        await claimed(conn, worker_id)
        await conn.execute(
            """UPDATE queue_rates SET start_times = start_times || (now() + interval '1 day'),
            start_counts = start_counts || 1, next_at = now() + interval '1 day'"""
        )

        await set_type_limits(conn, "a", TypeGates(rate=Rate(3, _LONG)))
        await set_tenant(conn, "A", rate=rate)

        rows = await conn.fetch(
            "SELECT start_counts, start_times[1] <= now() AS past, next_at <= now() FROM queue_rates"
        )
        assert [tuple(row) for row in rows] == [([1], True, True)] * 2


async def test_a_sweep_tells_when_the_next_rate_opens(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        assert (await sweep_gates(conn, SweepProgress())).opens_in is None
        await set_type_limits(conn, "a", TypeGates(tenant_rate=Rate(1, _LONG)))
        await enqueue(conn, [entry("a", tenant) for tenant in "AABB"])
        await claimed(conn, worker_id)

        opens_in = (await sweep_gates(conn, SweepProgress())).opens_in
        assert opens_in is not None
        assert 3500 < opens_in <= 3601
        await conn.execute(
            """UPDATE queue_rates SET next_at = now() - interval '1 s',
            start_times = ARRAY[now() - interval '2 hours'] WHERE tenant = 'B'"""
        )
        assert (await sweep_gates(conn, SweepProgress())).types == {"a"}
        assert [claim_.tenant for claim_ in await claimed(conn, worker_id)] == ["B"]


async def test_what_nobody_has_used_for_long_is_forgotten(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        await set_type_limits(conn, "a", TypeGates(tenant_rate=Rate(1, _PERIOD)))
        await enqueue(conn, [entry()])
        await claimed(conn, worker_id)
        await conn.execute(
            "UPDATE queue_rates SET idle_at = now() - interval '1 hour', next_at = now() - interval '1 hour'"
        )

        await swept(conn)

        assert await conn.fetchval("SELECT count(*) FROM queue_rates") == 0
