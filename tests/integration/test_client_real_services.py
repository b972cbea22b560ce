"""The SDK against the real services: what a program that uses it sees."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from millrace_client import (
    AlreadyExistsError,
    AttemptOutcome,
    Backoff,
    CancelledJobs,
    Concurrency,
    Daily,
    FailedPreconditionError,
    InvalidArgumentError,
    JobError,
    JobFailedError,
    JobFilter,
    JobStatus,
    JobTypeLimits,
    KeyOrder,
    Millrace,
    NewJob,
    NotFoundError,
    OrganisationLimits,
    RateLimit,
    RetriedJobs,
    RetryPolicy,
    UnavailableError,
    Unique,
    UniqueConflict,
    UniqueScope,
    UniqueStates,
    WaitingCause,
    WorkerState,
)
from millrace_database.database import Database
from support.whole_system import WholeSystem, running_whole_system

TOMORROW = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


@pytest.fixture
async def system(database: Database, tmp_path: Path) -> AsyncIterator[WholeSystem]:
    async with running_whole_system(database, tmp_path / "data") as system:
        yield system


@pytest.fixture
async def client(system: WholeSystem) -> AsyncIterator[Millrace]:
    async with Millrace(
        system.jobs, scheduler=system.scheduler, worker=system.worker, org_id="acme", timeout=15
    ) as client:
        yield client


class Summands(BaseModel):
    a: int
    b: int


async def test_a_job_is_created_and_waited_for(client: Millrace) -> None:
    created = await client.jobs.create(
        "toy:add", Summands(a=2, b=40), metadata={"ticket": 7}, created_by="ada"
    )
    assert created.status is JobStatus.PENDING
    done = (await client.jobs.wait(created.job_id, timeout=15)).raise_for_status()
    assert done.output == {"sum": 42}
    assert isinstance(done.output["sum"], int)
    assert (done.input, done.metadata) == ({"a": 2, "b": 40}, {"ticket": 7})
    assert (done.progress, done.attempt, done.created_by) == (100, 1, "ada")
    assert done.completed_at is not None
    assert done.completed_at >= created.created_at
    assert await client.jobs.get(created.job_id) == done


async def test_a_repeated_request_returns_the_same_job(client: Millrace) -> None:
    first = await client.jobs.create("toy:add", {"a": 1}, request_id="order-1")
    again = await client.jobs.create("toy:add", {"a": 1}, request_id="order-1")
    assert again.job_id == first.job_id
    with pytest.raises(AlreadyExistsError) as raised:
        await client.jobs.create("toy:add", {"a": 2}, request_id="order-1")
    assert raised.value.resource is not None
    assert raised.value.resource.name == first.job_id


async def test_each_bad_field_is_named(client: Millrace) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        await client.jobs.create("toy:add", {"a": "two"}, priority=1000)
    fields = {violation.field for violation in raised.value.violations}
    assert "priority" in fields
    with pytest.raises(InvalidArgumentError) as raised:
        await client.jobs.create("toy:add", {"a": "two"})
    assert [violation.field for violation in raised.value.violations] == ["input.a"]


async def test_a_failed_job_says_why_and_can_be_tried_again(client: Millrace) -> None:
    created = await client.jobs.create("toy:fail")
    failed = await client.jobs.wait(created.job_id, timeout=15)
    assert failed.error == JobError(code="OUT_OF_STOCK", message="none left", retryable=False)
    with pytest.raises(JobFailedError, match="OUT_OF_STOCK: none left"):
        failed.raise_for_status()
    assert (await client.jobs.retry(created.job_id)).status is JobStatus.PENDING
    assert (await client.jobs.wait(created.job_id, timeout=15)).attempt == 2


async def test_a_running_job_is_watched_and_cancelled(client: Millrace) -> None:
    created = await client.jobs.create("toy:wait")
    statuses = []
    async with asyncio.timeout(15), aclosing(client.jobs.watch(created.job_id)) as watch:
        async for job in watch:
            statuses.append(job.status)
            if job.message == "waiting" and JobStatus.CANCELLING not in statuses:
                await client.jobs.cancel(created.job_id)
    assert statuses[-1] is JobStatus.CANCELLED
    assert JobStatus.PROCESSING in statuses
    done = await client.jobs.wait((await client.jobs.create("toy:add", {"a": 1})).job_id, timeout=15)
    with pytest.raises(FailedPreconditionError):
        await client.jobs.cancel(done.job_id)


async def test_a_batch_has_a_result_for_each_job(client: Millrace) -> None:
    jobs = [NewJob("toy:add", {"a": number}, run_at=TOMORROW) for number in range(250)]
    results = await client.jobs.create_many([*jobs, NewJob("toy:unknown"), NewJob("toy:add", {"a": None})])
    assert len({result.job_id for result in results[:250]}) == 250
    assert all(result.error is None for result in results[:250])
    assert isinstance(results[250].error, InvalidArgumentError)
    assert isinstance(results[251].error, InvalidArgumentError)
    assert results[251].error.violations[0].field == "input.a"


async def test_lists_are_paged_filtered_and_newest_first(client: Millrace) -> None:
    results = await client.jobs.create_many(
        NewJob("toy:add", {"a": number}, metadata={"even": number % 2 == 0}, run_at=TOMORROW)
        for number in range(7)
    )
    newest_first = [result.job_id for result in reversed(results)]
    assert [job.job_id async for job in client.jobs.list(page_size=3)] == newest_first
    assert [job.job_id async for job in client.jobs.list(limit=2)] == newest_first[:2]
    even = [job.input["a"] async for job in client.jobs.list(metadata={"even": True}, statuses=["PENDING"])]
    assert even == [6, 4, 2, 0]
    assert [job async for job in client.jobs.list(statuses=[JobStatus.FAILED])] == []
    assert [job async for job in client.organisation("globex").jobs.list()] == []


async def test_job_types_and_workers_are_listed(client: Millrace) -> None:
    types = {job_type.type: job_type async for job_type in client.jobs.types(page_size=1)}
    assert set(types) == {"toy:add", "toy:fail", "toy:steps", "toy:wait"}
    add = types["toy:add"]
    assert (add.label, add.description, add.timeout) == ("Add", "Adds two numbers.", timedelta(hours=1))
    assert add.input_schema["required"] == ["a"]
    [worker] = [worker async for worker in client.workers.list()]
    assert worker.state is WorkerState.ACTIVE
    assert set(worker.job_types) == set(types)


async def test_what_a_job_asks_for_comes_back_as_it_was_given(client: Millrace) -> None:
    retry_policy = RetryPolicy(Backoff.FIXED, timedelta(seconds=1.5), timedelta(days=30), jitter=0.5)
    unique = Unique("u", UniqueScope.ORGANISATION, UniqueStates.WAITING, UniqueConflict.REPLACE)
    concurrency = Concurrency("c", 1, KeyOrder.SKIP_FAILED)
    created = await client.jobs.create(
        "toy:add",
        {"a": 1},
        delay=timedelta(hours=1),
        deadline=TOMORROW,
        attempt_timeout=timedelta(minutes=2),
        retry_policy=retry_policy,
        unique=unique,
        concurrency=concurrency,
        dead_letter_type="toy:steps",
    )
    assert created.run_at is not None
    assert created.run_at - created.created_at == timedelta(hours=1)
    assert (created.deadline, created.timeout) == (TOMORROW, timedelta(minutes=2))
    assert (created.retry_policy, created.unique, created.concurrency) == (retry_policy, unique, concurrency)
    assert created.dead_letter_type == "toy:steps"
    read = await client.jobs.get(created.job_id)
    assert read == created
    assert read.waiting_reason is not None
    assert (read.waiting_reason.cause, read.waiting_reason.until) == (WaitingCause.SCHEDULED, created.run_at)
    await client.jobs.validate(NewJob("toy:add", {"a": 1}, retry_policy=retry_policy))
    with pytest.raises(InvalidArgumentError, match="jitter"):
        await client.jobs.validate(NewJob("toy:add", {"a": 1}, retry_policy=RetryPolicy(jitter=2)))


async def test_a_unique_key_is_kept_shared_and_replaced(client: Millrace) -> None:
    first = await client.jobs.create("toy:add", {"a": 1}, run_at=TOMORROW, unique=Unique("k"))
    assert (first.already_existed, first.replaced) == (False, False)
    with pytest.raises(AlreadyExistsError) as raised:
        await client.jobs.create("toy:add", {"a": 2}, unique=Unique("k"))
    assert raised.value.job_id == first.job_id
    shared = Unique("k", on_conflict=UniqueConflict.RETURN_EXISTING)
    [result] = await client.jobs.create_many([NewJob("toy:add", {"a": 3}, unique=shared)])
    assert (result.job_id, result.already_existed) == (first.job_id, True)
    existing, new = await asyncio.gather(
        client.jobs.create("toy:add", {"a": 5}, unique=shared), client.jobs.create("toy:add", {"a": 6})
    )
    assert (existing.job_id, existing.already_existed, existing.replaced) == (first.job_id, True, False)
    assert (new.already_existed, new.replaced) == (False, False)
    replacing = Unique("k", on_conflict=UniqueConflict.REPLACE)
    replaced = await client.jobs.create("toy:add", {"a": 4}, unique=replacing)
    assert (replaced.job_id, replaced.already_existed, replaced.replaced) == (first.job_id, False, True)
    assert (await client.jobs.get(first.job_id)).already_existed is None
    assert (await client.jobs.wait(first.job_id, timeout=15)).output == {"sum": 4}


async def test_a_failed_job_blocks_its_key_until_that_is_unblocked(client: Millrace) -> None:
    key = Concurrency("k", order=KeyOrder.BLOCK_ON_FAILURE)
    failed = await client.jobs.create("toy:fail", concurrency=key)
    await client.jobs.wait(failed.job_id, timeout=15)
    held = await client.jobs.create("toy:fail", concurrency=key)
    reason = (await client.jobs.get(held.job_id)).waiting_reason
    assert reason is not None
    assert (reason.cause, reason.blocking_job_id) == (WaitingCause.KEY_BLOCKED, failed.job_id)
    assert await client.jobs.unblock_key("toy:fail", "k") == failed.job_id
    assert (await client.jobs.wait(held.job_id, timeout=15)).status is JobStatus.FAILED


async def test_attempts_are_listed_and_counted(client: Millrace) -> None:
    created = await client.jobs.create("toy:fail")
    await client.jobs.wait(created.job_id, timeout=15)
    await client.jobs.retry(created.job_id)
    await client.jobs.wait(created.job_id, timeout=15)
    attempts = [attempt async for attempt in client.jobs.attempts(created.job_id, page_size=1)]
    assert [(attempt.attempt, attempt.outcome) for attempt in attempts] == [
        (2, AttemptOutcome.FAILED),
        (1, AttemptOutcome.FAILED),
    ]
    assert all(attempt.error and attempt.error.code == "OUT_OF_STOCK" for attempt in attempts)
    counts = (await client.jobs.get(created.job_id)).attempt_counts
    assert counts is not None
    assert (counts.failed, counts.timed_out) == (2, 0)


async def test_many_jobs_are_cancelled_and_retried(client: Millrace) -> None:
    results = await client.jobs.create_many(
        NewJob("toy:add", {"a": number}, metadata={"even": number % 2 == 0}, run_at=TOMORROW)
        for number in range(5)
    )
    even = JobFilter(metadata={"even": True})
    assert await client.jobs.cancel_many(even, dry_run=True) == CancelledJobs(3, 0, more=False)
    assert await client.jobs.cancel_many(even) == CancelledJobs(3, 0, more=False)
    cancelled = JobFilter(statuses=[JobStatus.CANCELLED])
    assert await client.jobs.retry_many(cancelled) == RetriedJobs(3, 0, more=False)
    assert (await client.jobs.wait(results[0].job_id, timeout=15)).output == {"sum": 0}
    assert (await client.jobs.get(results[1].job_id)).status is JobStatus.PENDING


async def test_a_type_and_an_organisation_are_held_back(client: Millrace) -> None:
    limits = JobTypeLimits(max_running=2, rate_per_organisation=RateLimit(5, timedelta(minutes=1)))
    assert (await client.job_types.set_limits("toy:add", limits)).limits == limits
    assert (await client.job_types.pause("toy:add")).paused
    share = OrganisationLimits(weight=2, max_running=1, rate=RateLimit(9, timedelta(seconds=3), smooth=True))
    assert (await client.organisations.set_limits("acme", share)).limits == share
    assert (await client.organisations.pause("acme")).paused
    created = await client.jobs.create("toy:add", {"a": 1})
    reason = (await client.jobs.get(created.job_id)).waiting_reason
    assert reason is not None
    assert reason.cause is WaitingCause.TYPE_PAUSED
    [depth] = (await client.queue_health(org_id="acme")).depths
    assert (depth.type, depth.ready + depth.held) == ("toy:add", 1)
    assert not (await client.job_types.resume("toy:add")).paused
    assert not (await client.organisations.resume("acme")).paused
    assert (await client.organisations.get("acme")).limits == share
    assert (await client.jobs.wait(created.job_id, timeout=15)).output == {"sum": 1}
    with pytest.raises(NotFoundError):
        await client.job_types.pause("toy:none")


async def test_files_go_up_and_down_unchanged(client: Millrace, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    source = tmp_path / "numbers.bin"
    source.write_bytes(content)
    file = await client.files.upload(source, created_by="ada")
    assert (file.name, file.size_bytes, file.created_by) == ("numbers.bin", len(content), "ada")
    assert await client.files.get(file.file_id) == file
    await client.files.download(file.file_id, tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == content
    text = await client.files.upload(b"a,b\n1,2\n", "table.csv")
    assert text.content_type == "text/csv"
    assert await client.files.read(text.file_id) == b"a,b\n1,2\n"
    assert [listed.name async for listed in client.files.list()] == ["table.csv", "numbers.bin"]
    with pytest.raises(NotFoundError):
        await client.organisation("globex").files.get(file.file_id)
    with pytest.raises(InvalidArgumentError) as raised:
        await client.files.upload(b"", "../escaped")
    assert raised.value.violations


async def test_a_schedule_lives_its_life(client: Millrace) -> None:
    schedule = await client.schedules.create(
        "Nightly", "toy:add", Daily("03:30"), {"a": 1}, time_zone="Europe/Paris", metadata={"by": "night"}
    )
    assert (schedule.name, schedule.recurrence, schedule.time_zone) == (
        "Nightly",
        Daily("03:30"),
        "Europe/Paris",
    )
    assert schedule.next_run_at is not None
    assert (await client.schedules.pause(schedule.schedule_id, "holidays")).pause_reason == "holidays"
    assert (await client.schedules.resume(schedule.schedule_id)).paused is False
    job_id = await client.schedules.run(schedule.schedule_id)
    job = (await client.jobs.wait(job_id, timeout=15)).raise_for_status()
    assert (job.output, job.schedule_id, job.metadata["by"]) == ({"sum": 1}, schedule.schedule_id, "night")
    assert [listed.schedule_id async for listed in client.schedules.list()] == [schedule.schedule_id]
    await client.schedules.delete(schedule.schedule_id)
    with pytest.raises(NotFoundError):
        await client.schedules.get(schedule.schedule_id)


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    async with Millrace("127.0.0.1:1", org_id="acme", timeout=10) as client:
        with pytest.raises(UnavailableError):
            await client.jobs.retry("job_00000000000000000000000000000000")
