import asyncio
import sys
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from structlog.contextvars import get_contextvars

from millrace_database.database import Database
from millrace_worker import Backoff, JobContext, JobError, Registry, SyncJobContext
from support.worker_runs import create, finished, job_with, output, worker

QUICK = Backoff(base=timedelta(milliseconds=50), jitter=0)


class Order(BaseModel):
    number: int = Field(default=1, ge=1)


@dataclass
class Receipt:
    number: int
    thread: str


@pytest.fixture
def registry() -> Registry:
    return Registry()


async def test_an_async_handler_gets_its_job_and_its_result_is_stored(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    seen = []

    @registry.job_handler("orders:ship")
    async def ship(context: JobContext[Order]) -> dict[str, int]:
        seen.append(context)
        await context.update_processed_items(2, total=2)
        return {"shipped": context.input.number}

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:ship", [{"number": 7}], metadata={"label": "x"})
        job = await finished(database, job_id)

    assert (job.status, output(job), job.attempt) == ("completed", {"shipped": 7}, 1)
    assert (job.progress, job.processed_items, job.total_items) == (100, 2, 2)
    (context,) = seen
    assert (context.job_id, context.org_id, context.type) == (f"job_{job_id.hex}", "acme", "orders:ship")
    assert (context.attempt, context.created_by, context.metadata) == (1, "ann", {"label": "x"})
    assert context.resources.database is database


async def test_a_plain_handler_runs_in_a_thread(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:bill")
    def bill(context: SyncJobContext[Order]) -> Receipt:
        context.update_progress(50, "half")
        return Receipt(number=context.input.number, thread=threading.current_thread().name)

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:bill", [{"number": 3}])
        job = await finished(database, job_id)

    receipt = output(job)
    assert (job.status, receipt["number"], job.message) == ("completed", 3, "half")
    assert receipt["thread"] != threading.main_thread().name


async def test_a_handler_may_return_nothing_or_a_model(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:drop")
    async def drop(context: JobContext[dict[str, Any]]) -> None:
        pass

    @registry.job_handler("orders:copy")
    async def copy(context: JobContext[Order]) -> Order:
        return context.input

    async with worker(database, registry, tmp_path):
        (dropped,) = await create(database, "orders:drop")
        (copied,) = await create(database, "orders:copy", [{"number": 4}])
        assert output(await finished(database, dropped)) == {}
        assert output(await finished(database, copied)) == {"number": 4}


@pytest.mark.parametrize(("slots", "at_most"), [(100, 3), (2, 2)])
async def test_no_more_handlers_run_than_the_type_and_the_slots_allow(
    database: Database, registry: Registry, tmp_path: Path, slots: int, at_most: int
) -> None:
    running = 0
    most = 0

    @registry.job_handler("orders:count", concurrency=3)
    async def count(context: JobContext[dict[str, Any]]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    ids = await create(database, "orders:count", [{}] * 300, hint=False)
    async with worker(database, registry, tmp_path, worker_slots=slots):
        jobs = [await finished(database, job_id) for job_id in ids]

    assert {job.status for job in jobs} == {"completed"}
    assert {job.attempt for job in jobs} == {1}
    assert most == at_most


async def test_a_failed_attempt_is_tried_again_after_a_while_and_succeeds(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    starts = []

    @registry.job_handler("orders:flaky", backoff=QUICK)
    async def flaky(context: JobContext[dict[str, Any]]) -> dict[str, int]:
        starts.append(time.monotonic())
        if context.attempt < 3:
            raise ValueError("the printer is on fire")
        return {"attempt": context.attempt}

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:flaky")
        job = await finished(database, job_id)

    assert (job.status, job.attempt, output(job)) == ("completed", 3, {"attempt": 3})
    assert starts[1] - starts[0] >= 0.05
    assert starts[2] - starts[1] >= 0.1


async def test_a_job_fails_for_good_when_its_attempts_are_used_up(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:broken", backoff=QUICK)
    def broken(context: SyncJobContext[dict[str, Any]]) -> None:
        raise KeyError("missing")

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:broken", max_attempts=2)
        job = await finished(database, job_id)

    assert (job.status, job.attempt) == ("failed", 2)
    assert (job.error_code, job.error_message, job.error_retryable) == (
        "HANDLER_ERROR",
        "KeyError: 'missing'",
        True,
    )


async def test_a_handler_says_itself_that_trying_again_is_useless(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:refuse", backoff=QUICK)
    async def refuse(context: JobContext[dict[str, Any]]) -> None:
        raise JobError("NO_SUCH_CUSTOMER", "There is no customer 5.", retryable=False)

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:refuse")
        job = await finished(database, job_id)

    assert (job.status, job.attempt) == ("failed", 1)
    assert (job.error_code, job.error_message, job.error_retryable) == (
        "NO_SUCH_CUSTOMER",
        "There is no customer 5.",
        False,
    )


async def test_a_handler_says_itself_when_to_try_again(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:later", backoff=Backoff(base=timedelta(hours=1)))
    async def later(context: JobContext[dict[str, Any]]) -> None:
        if context.attempt == 1:
            raise JobError("BUSY", "Busy.", retryable=True, retry_after=timedelta())

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:later")
        job = await finished(database, job_id)

    assert (job.status, job.attempt) == ("completed", 2)


async def test_a_waiting_attempt_shows_the_error_and_the_time_of_the_next(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:wait", backoff=Backoff(base=timedelta(minutes=3), jitter=0))
    async def wait(context: JobContext[dict[str, Any]]) -> None:
        raise OSError("offline")

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:wait")
        job = await job_with(database, job_id, lambda job: job.error_code is not None)

    assert (job.status, job.error_message) == ("pending", "OSError: offline")
    assert timedelta(seconds=170) < job.run_at - job.read_at <= timedelta(seconds=180)


@pytest.mark.parametrize("swallows", [False, True])
async def test_an_async_attempt_that_takes_too_long_ends_with_timeout(
    database: Database, registry: Registry, tmp_path: Path, swallows: bool
) -> None:
    @registry.job_handler("orders:slow", timeout=timedelta(milliseconds=100))
    async def slow(context: JobContext[dict[str, Any]]) -> dict[str, str]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallows:
                raise
        return {"all": "well"}

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:slow", max_attempts=1)
        job = await finished(database, job_id)

    assert (job.status, job.error_code, job.error_retryable) == ("failed", "TIMEOUT", True)


async def test_a_thread_that_takes_too_long_is_told_and_ends_with_timeout(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:crawl", timeout=timedelta(milliseconds=100))
    def crawl(context: SyncJobContext[dict[str, Any]]) -> None:
        while True:
            context.raise_if_cancelled()
            time.sleep(0.01)

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:crawl", max_attempts=1)
        job = await finished(database, job_id)

    assert (job.status, job.error_code) == ("failed", "TIMEOUT")


async def test_input_that_does_not_fit_any_more_fails_for_good_and_names_the_field(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    called = False

    @registry.job_handler("orders:strict")
    async def strict(context: JobContext[Order]) -> None:
        nonlocal called
        called = True

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:strict", [{"number": "secret"}])
        job = await finished(database, job_id)

    assert (job.status, job.attempt, job.error_code, job.error_retryable) == (
        "failed",
        1,
        "INVALID_INPUT",
        False,
    )
    assert job.error_message is not None
    assert job.error_message.startswith("number: ")
    assert "secret" not in job.error_message
    assert not called


@pytest.mark.parametrize(
    "result", [17, "text", ["a"], {"when": object()}, {"nul": "a\0b"}, {"text": "x" * 2_000_000}]
)
async def test_a_result_that_cannot_be_stored_fails_for_good_and_spoils_no_other(
    database: Database, registry: Registry, tmp_path: Path, result: object
) -> None:
    @registry.job_handler("orders:odd")
    async def odd(context: JobContext[dict[str, Any]]) -> object:
        return result

    @registry.job_handler("orders:even")
    async def even(context: JobContext[dict[str, Any]]) -> dict[str, bool]:
        return {"ok": True}

    async with worker(database, registry, tmp_path):
        (bad,) = await create(database, "orders:odd", hint=False)
        (good,) = await create(database, "orders:even")
        job = await finished(database, bad)
        assert (await finished(database, good)).status == "completed"

    assert (job.status, job.attempt, job.error_code, job.error_retryable) == (
        "failed",
        1,
        "INVALID_OUTPUT",
        False,
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "CancelledError"),
        (BaseException("odd"), "BaseException: odd"),
        (StopIteration(), "RuntimeError: coroutine raised StopIteration"),
    ],
)
async def test_whatever_a_thread_raises_is_its_own_failure_only(
    database: Database, registry: Registry, tmp_path: Path, error: BaseException, message: str
) -> None:
    @registry.job_handler("orders:leave")
    def leave(context: SyncJobContext[dict[str, Any]]) -> None:
        raise error

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:leave", max_attempts=1)
        job = await finished(database, job_id)

    assert (job.status, job.error_code, job.error_message) == ("failed", "HANDLER_ERROR", message)


async def test_a_handler_that_ends_the_interpreter_or_meets_a_cancelled_task_fails(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:exit")
    async def leave(context: JobContext[dict[str, Any]]) -> None:
        sys.exit(1)

    @registry.job_handler("orders:inner")
    async def inner(context: JobContext[dict[str, Any]]) -> None:
        task = asyncio.create_task(asyncio.sleep(10))
        task.cancel()
        await task

    async with worker(database, registry, tmp_path):
        ids = await create(database, "orders:exit", max_attempts=1)
        ids += await create(database, "orders:inner", max_attempts=1)
        jobs = [await finished(database, job_id) for job_id in ids]

    assert [job.error_message for job in jobs] == ["SystemExit: 1", "CancelledError"]


async def test_errors_with_characters_that_cannot_be_stored_are_cut_to_size(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    @registry.job_handler("orders:garble")
    async def garble(context: JobContext[dict[str, Any]]) -> None:
        await context.update_progress(5, "n\0ul \ud800" + "y" * 5_000)
        raise ValueError("nul \0, surrogate \ud800, long " + "x" * 10_000)

    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, "orders:garble", max_attempts=1)
        job = await finished(database, job_id)

    assert (job.status, job.error_code) == ("failed", "HANDLER_ERROR")
    assert job.error_message is not None
    assert len(job.error_message) <= 2_000
    assert len(job.message) <= 1_000


async def test_log_lines_of_a_handler_carry_its_job_and_nothing_of_another(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    left_by: ContextVar[str | None] = ContextVar("left_by", default=None)
    seen: list[tuple[str, dict[str, Any], str | None]] = []

    @registry.job_handler("orders:log", concurrency=1)
    async def log(context: JobContext[dict[str, Any]]) -> None:
        seen.append((context.job_id, get_contextvars(), left_by.get()))
        left_by.set(context.job_id)

    @registry.job_handler("orders:log-thread")
    def log_in_thread(context: SyncJobContext[dict[str, Any]]) -> None:
        seen.append((context.job_id, get_contextvars(), None))

    async with worker(database, registry, tmp_path):
        ids = await create(database, "orders:log", [{}, {}, {}]) + await create(database, "orders:log-thread")
        for job_id in ids:
            assert (await finished(database, job_id)).status == "completed"

    assert {job_id for job_id, _, _ in seen} == {f"job_{job_id.hex}" for job_id in ids}
    for name, fields, left in seen:
        assert (fields, left) == ({"job_id": name, "org_id": "acme"}, None)
