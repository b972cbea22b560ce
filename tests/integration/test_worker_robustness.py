import asyncio
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database import database as database_module
from millrace_database import job_lifecycle
from millrace_database.database import Database
from millrace_worker import Backoff, JobContext, Registry, SyncJobContext, execution
from millrace_worker.output import encode_output
from support.worker_runs import create, eventually, fetch, fetched, finished, read, worker


@pytest.fixture
def registry() -> Registry:
    return Registry()


async def test_one_result_that_the_database_refuses_spoils_no_other(
    database: Database, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(value: object) -> str:
        return '{"refused": "\\u0000"}' if value == {"bad": True} else encode_output(value)

    monkeypatch.setattr(execution, "encode_output", encode)
    ready = asyncio.Event()
    entered = 0

    @registry.job_handler("robust:mixed", concurrency=50)
    async def mixed(context: JobContext[dict[str, bool]]) -> dict[str, bool]:
        nonlocal entered
        entered += 1
        if entered == 20:
            ready.set()
        await ready.wait()
        return context.input

    async with worker(database, registry, tmp_path):
        ids = await create(database, "robust:mixed", [{"bad": number == 7} for number in range(20)])
        jobs = [await finished(database, job_id) for job_id in ids]

    assert Counter(job.status for job in jobs) == {"completed": 19, "failed": 1}
    assert (jobs[7].error_code, jobs[7].error_retryable) == ("INVALID_OUTPUT", False)


async def test_an_async_handler_that_swallows_cancellations_is_cancelled_again(
    database: Database, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "REMIND_SECONDS", 0.05)
    swallowed = 0

    @registry.job_handler("robust:greedy", timeout=timedelta(milliseconds=50))
    async def greedy(context: JobContext[dict[str, Any]]) -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "robust:greedy", max_attempts=1)
        job = await finished(database, job_id)

    assert (job.status, job.error_code, swallowed) == ("failed", "TIMEOUT", 3)


async def test_a_thread_that_never_listens_times_out_and_keeps_its_slot(
    database: Database, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "ABANDON_SECONDS", 0.05)
    release = threading.Event()
    runs = []

    @registry.job_handler(
        "robust:deaf", concurrency=1, timeout=timedelta(milliseconds=50), backoff=Backoff(base=timedelta())
    )
    def deaf(context: SyncJobContext[dict[str, Any]]) -> dict[str, int]:
        runs.append(context.attempt)
        if len(runs) == 1:
            release.wait(20)
        return {"attempt": context.attempt}

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "robust:deaf")
        deadline = time.monotonic() + 5
        while (job := await read(database, job_id)).error_code != "TIMEOUT":
            assert time.monotonic() < deadline, job
            await asyncio.sleep(0.02)
        assert (job.status, runs) == ("pending", [1])
        release.set()
        job = await finished(database, job_id)

    assert (job.status, job.attempt, runs) == ("completed", 2, [1, 2])


async def test_two_workers_share_the_jobs_and_run_each_once(database: Database, tmp_path: Path) -> None:
    jobs = 1_500
    runs: Counter[str] = Counter()
    by: Counter[str] = Counter()

    def registry_of(name: str) -> Registry:
        registry = Registry()

        @registry.job_handler("robust:shared", concurrency=20)
        async def shared(context: JobContext[dict[str, Any]]) -> None:
            runs[context.job_id] += 1
            by[name] += 1
            await asyncio.sleep(0.001)

        return registry

    ids = await create(database, "robust:shared", [{}] * jobs, hint=False)
    async with (
        worker(database, registry_of("first"), tmp_path),
        worker(database, registry_of("second"), tmp_path),
    ):
        await eventually(lambda: len(runs) == jobs, within=30)
        for job_id in ids[-50:]:
            await finished(database, job_id)
        await fetched(database, "SELECT FROM queue LIMIT 1", lambda rows: not rows)
        statuses = await fetch(database, "SELECT DISTINCT status, attempt FROM jobs")

    assert set(runs.values()) == {1}
    assert min(by.values()) > 0
    assert [tuple(row) for row in statuses] == [("completed", 1)]


async def test_handlers_that_hold_all_connections_do_not_hold_up_other_jobs(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    release = asyncio.Event()
    holding = 0

    @registry.job_handler("robust:hold")
    async def hold(context: JobContext[dict[str, Any]]) -> None:
        nonlocal holding
        async with context.resources.database.connection():
            holding += 1
            await release.wait()

    @registry.job_handler("robust:quick")
    async def quick(context: JobContext[dict[str, Any]]) -> None:
        await context.update_progress(50)

    spare = await Database.open(database.url, application_name="test")
    async with worker(database, registry, tmp_path):
        held = await create(database, "robust:hold", [{}] * 5)
        await eventually(lambda: holding == 5)
        (job_id,) = await create(spare, "robust:quick")
        assert (await finished(spare, job_id, within=5)).status == "completed"
        release.set()
        for held_id in held:
            assert (await finished(spare, held_id)).status == "completed"
    await spare.close()


async def test_claims_do_not_get_slower_while_a_transaction_elsewhere_stays_open(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    """It keeps in the index what claimed jobs leave there; once the line has gone on, no claim reads that again."""

    @registry.job_handler("robust:idle")
    async def idle(context: JobContext[dict[str, Any]]) -> None:
        raise NotImplementedError

    @registry.job_handler("robust:busy", concurrency=20)
    async def busy(context: JobContext[dict[str, Any]]) -> None:
        await asyncio.sleep(0)

    async def drained(jobs: int) -> int:
        """How many entries of the line have been read so far, when so many more jobs have run."""
        await create(database, "robust:busy", [{}] * jobs, hint=False)
        async with worker(database, registry, tmp_path):
            await fetched(database, "SELECT FROM queue LIMIT 1", lambda rows: not rows, within=30)
            await fetched(
                database, "SELECT FROM queue_lines WHERE start > 0 AND start = next_start", bool, within=30
            )
        # The statistics are complete once the worker's connections have ended.
        (row,) = await fetch(
            database, "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'queue_ranked'"
        )
        count: int = row["idx_tup_read"]
        return count

    async with database.connection() as old, old.transaction(isolation="repeatable_read", readonly=True):
        await old.fetchval("SELECT count(*) FROM queue")
        before = await drained(3_000)
        after = await drained(200)

    # From the beginning each of at least ten claims would read what 3,000 entries have left there.
    assert after - before < 15_000


async def test_a_transaction_that_holds_one_entry_does_not_hold_up_the_ends_of_other_jobs(
    database: Database, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_COMMAND_TIMEOUT_SECONDS", 1)
    may_end = asyncio.Event()

    @registry.job_handler("robust:held", concurrency=20)
    async def held(context: JobContext[dict[str, Any]]) -> None:
        await may_end.wait()

    async with worker(database, registry, tmp_path):
        job_ids = await create(database, "robust:held", [{}] * 10)
        await fetched(database, "SELECT FROM queue WHERE state = 'running'", lambda rows: len(rows) == 10)
        async with database.transaction() as other:
            # The writer has locked some of the others before it comes to this one.
            await other.fetchval("SELECT id FROM queue WHERE id = $1 FOR UPDATE", job_ids[5])
            may_end.set()
            for job_id in job_ids[:5] + job_ids[6:]:
                assert (await finished(database, job_id)).status == "completed"
            assert (await read(database, job_ids[5])).status == "processing"
        assert (await finished(database, job_ids[5])).status == "completed"


async def test_ends_whose_confirmation_was_lost_are_known_to_be_written(
    database: Database,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    complete = job_lifecycle.complete_plain_jobs
    losses = [ConnectionResetError("the connection was lost")]

    async def lose_the_answer(conn: asyncpg.Connection, results: Any) -> set[UUID]:
        accepted = await complete(conn, results)
        if losses:
            raise losses.pop()
        return accepted

    monkeypatch.setattr(job_lifecycle, "complete_plain_jobs", lose_the_answer)

    @registry.job_handler("robust:quick", concurrency=20)
    async def quick(context: JobContext[dict[str, Any]]) -> None:
        pass

    async with worker(database, registry, tmp_path):
        for job_id in await create(database, "robust:quick", [{}] * 10):
            assert (await finished(database, job_id)).status == "completed"
        rows = "SELECT coalesce(sum(finished), 0)::integer AS finished FROM job_flow"
        await fetched(database, rows, lambda flow: flow[0]["finished"] == 10)

    assert "the lease was lost" not in capsys.readouterr().err
