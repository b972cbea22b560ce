import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from millrace_queue import Rate, TypeGates, pause_tenant, resume_tenant, set_tenant, set_type_limits
from millrace_worker import JobContext, Registry, claim_loop, gate_sweeper
from support.worker_runs import ORG, create, fetch, fetched, finished, worker


class _Gauge:
    """How many run at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def run(self, seconds: float) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(seconds)
        self.now -= 1


@pytest.fixture
def gauge() -> _Gauge:
    return _Gauge()


@pytest.fixture
def registry(gauge: _Gauge) -> Registry:
    registry = Registry()

    @registry.job_handler("orders:limited", concurrency=50)
    async def limited(context: JobContext[dict[str, Any]]) -> None:
        await gauge.run(0.02)

    return registry


async def _set(database: Database, gates: TypeGates) -> None:
    async with database.connection() as conn:
        await set_type_limits(conn, "orders:limited", gates)


async def _all_completed(database: Database, *, within: float = 20) -> list[Any]:
    """When the jobs were started."""
    query = "SELECT status, started_at FROM jobs ORDER BY started_at"
    rows = await fetched(
        database, query, lambda rows: all(row["status"] == "completed" for row in rows), within=within
    )
    return [row["started_at"] for row in rows]


async def test_two_workers_keep_a_limit_together_and_use_it(
    database: Database, registry: Registry, gauge: _Gauge, tmp_path: Path
) -> None:
    async with AsyncExitStack() as workers:
        for name in ("one", "two"):
            await workers.enter_async_context(worker(database, registry, tmp_path / name))
        await _set(database, TypeGates(max_running=4))
        await create(database, "orders:limited", [{}] * 200)

        await _all_completed(database)

    assert gauge.most == 4


async def test_a_limit_of_the_organisation_is_lifted_while_jobs_wait(
    database: Database, registry: Registry, gauge: _Gauge, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        await _set(database, TypeGates(max_running_per_tenant=0))
        await create(database, "orders:limited", [{}] * 40)
        await fetched(database, "SELECT FROM queue WHERE state = 'parked'", lambda rows: len(rows) == 40)

        await _set(database, TypeGates())

        await _all_completed(database, within=5)


@pytest.mark.parametrize("of_tenant", [False, True])
async def test_a_rate_is_kept_and_used_without_waiting_for_a_poll(
    database: Database,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_tenant: bool,
) -> None:
    monkeypatch.setattr(claim_loop, "POLL_SECONDS", 600.0)
    monkeypatch.setattr(gate_sweeper, "SWEEP_SECONDS", 600.0)
    rate = Rate(5, timedelta(milliseconds=400))
    async with worker(database, registry, tmp_path):
        await _set(database, TypeGates(tenant_rate=rate) if of_tenant else TypeGates(rate=rate))
        await create(database, "orders:limited", [{}] * 25)

        starts = await _all_completed(database)

    assert all(later - earlier > rate.period for earlier, later in zip(starts, starts[5:], strict=False))


async def test_a_paused_organisation_goes_on_when_it_is_resumed(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        async with database.connection() as conn:
            await pause_tenant(conn, ORG)
        (job_id,) = await create(database, "orders:limited")
        await fetched(database, "SELECT FROM queue WHERE state = 'parked'", len)
        async with database.connection() as conn:
            await resume_tenant(conn, ORG)

        assert (await finished(database, job_id)).status == "completed"


async def test_a_limit_of_an_organisation_over_its_types(
    database: Database, registry: Registry, gauge: _Gauge, tmp_path: Path
) -> None:
    @registry.job_handler("orders:other", concurrency=50)
    async def other(context: JobContext[dict[str, Any]]) -> None:
        await gauge.run(0.02)

    async with database.connection() as conn:
        await set_tenant(conn, ORG, max_running=3)
    async with worker(database, registry, tmp_path):
        await create(database, "orders:limited", [{}] * 50)
        await create(database, "orders:other", [{}] * 50)
        await _all_completed(database)

    assert gauge.most == 3
    assert await fetch(database, "SELECT FROM queue") == []
