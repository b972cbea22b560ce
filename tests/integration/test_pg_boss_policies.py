"""The queue policies of pg-boss 12, spelled in Millrace: each script of sends, fetches and ends has the same outcome."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_database.job_lifecycle import (
    ClaimedJob,
    JobFailure,
    Retry,
    claim_jobs,
    complete_jobs,
    create_jobs,
    fail_jobs,
    retry_job,
)
from millrace_database.job_options import ConcurrencyRule, JobOptions, UniqueRule
from millrace_queue import promote
from support.queue_samples import disagreements, job_record, make_due, new_worker, sample_job

_Policy = Callable[[str], JobOptions | None]


def _standard(_key: str) -> None:
    return None


def _short(key: str) -> JobOptions:
    return JobOptions(unique=UniqueRule(key, states="waiting"))


def _singleton(key: str) -> JobOptions:
    return JobOptions(unique=UniqueRule(key, states="running"))


def _stately(key: str) -> JobOptions:
    return JobOptions(unique=UniqueRule(key, states="each"))


def _exclusive(key: str) -> JobOptions:
    return JobOptions(unique=UniqueRule(key, states="unfinished"))


def _key_strict_fifo(key: str) -> JobOptions:
    return JobOptions(concurrency=ConcurrencyRule(key, 1, "block"))


@dataclass
class _Queue:
    """A queue with a policy, in the words of pg-boss: a key that no `singletonKey` gives is the same for all."""

    database: Database
    worker_id: UUID
    policy: _Policy = _standard
    active: dict[UUID, ClaimedJob] = field(default_factory=dict)

    async def send(self, key: str = "-", *, retry_limit: int = 2) -> UUID | None:
        job = sample_job(options=self.policy(key), max_attempts=1 + retry_limit)
        async with self.database.transaction() as conn:
            (created,) = await create_jobs(conn, [job])
        return None if created.already_existed else job.job_id

    async def sent(self, key: str = "-", *, retry_limit: int = 2) -> UUID:
        job_id = await self.send(key, retry_limit=retry_limit)
        assert job_id is not None
        return job_id

    async def fetch(self, count: int = 10) -> list[UUID]:
        async with self.database.transaction() as conn:
            claimed = await claim_jobs(conn, self.worker_id, {"reports:generate": count}, count)
        self.active |= {job.claim.id: job for job in claimed}
        return [job.claim.id for job in claimed]

    async def complete(self, job_id: UUID) -> None:
        async with self.database.transaction() as conn:
            await complete_jobs(conn, [(self.active.pop(job_id).lease, None)])

    async def fail(self, job_id: UUID) -> None:
        """Fail an attempt; the next one, if any are left, is an hour away."""
        lease = self.active.pop(job_id).lease
        async with self.database.transaction() as conn:
            await fail_jobs(conn, [JobFailure(lease, timedelta(hours=1), "BROKEN", "", retryable=True)])

    async def let_retries_fall_due(self) -> None:
        async with self.database.transaction() as conn:
            await make_due(conn)
            await promote(conn, limit=100)

    async def retry(self, job_id: UUID) -> None:
        async with self.database.transaction() as conn:
            assert (await retry_job(conn, "acme", job_id, 1)).outcome is Retry.RETRIED

    async def status(self, job_id: UUID) -> str:
        return (await job_record(self.database, job_id)).status


@pytest.fixture
async def queue(database: Database) -> AsyncIterator[_Queue]:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
    yield _Queue(database, worker_id)
    async with database.connection() as conn:
        assert await disagreements(conn) == []


async def test_standard_restricts_nothing(queue: _Queue) -> None:
    jobs = [await queue.sent() for _ in range(3)]
    assert await queue.fetch() == jobs
    assert await queue.send() is not None


async def test_short_lets_one_be_queued_and_any_number_be_active(queue: _Queue) -> None:
    queue.policy = _short
    a = await queue.sent()
    assert await queue.send() is None
    assert await queue.fetch() == [a]

    b = await queue.sent()
    assert await queue.send() is None
    assert await queue.fetch() == [b]
    assert queue.active.keys() == {a, b}

    c = await queue.sent()
    await queue.fail(a)
    await queue.fail(b)
    assert await queue.send() is None
    await queue.let_retries_fall_due()
    assert set(await queue.fetch()) == {a, b, c}


async def test_singleton_lets_any_number_be_queued_and_one_be_active(queue: _Queue) -> None:
    queue.policy = _singleton
    a, b, c = [await queue.sent() for _ in range(3)]
    assert await queue.fetch() == [a]
    assert await queue.fetch() == []

    await queue.fail(a)
    assert await queue.fetch() == [b]
    await queue.let_retries_fall_due()
    assert await queue.fetch() == []

    await queue.complete(b)
    (third,) = await queue.fetch()
    await queue.complete(third)
    (fourth,) = await queue.fetch()
    assert {third, fourth} == {a, c}


async def test_stately_lets_one_be_in_each_state(queue: _Queue) -> None:
    queue.policy = _stately
    a = await queue.sent()
    assert await queue.send() is None
    assert await queue.fetch() == [a]

    b = await queue.sent()
    assert await queue.send() is None
    assert await queue.fetch() == []

    await queue.fail(a)
    assert await queue.fetch() == [b]
    c = await queue.sent()
    assert await queue.fetch() == []

    # The place among the retries is taken: its attempts are over.
    await queue.fail(b)
    assert [await queue.status(job) for job in (a, b, c)] == ["pending", "failed", "pending"]
    assert (await job_record(queue.database, b)).error_code == "UNIQUE_CONFLICT"

    await queue.let_retries_fall_due()
    (first,) = await queue.fetch()
    assert await queue.fetch() == []
    await queue.complete(first)
    (second,) = await queue.fetch()
    assert {first, second} == {a, c}


async def test_exclusive_lets_one_be_queued_or_active(queue: _Queue) -> None:
    queue.policy = _exclusive
    a = await queue.sent()
    assert await queue.send() is None
    assert await queue.fetch() == [a]
    assert await queue.send() is None

    await queue.fail(a)
    assert await queue.send() is None
    await queue.let_retries_fall_due()
    assert await queue.fetch() == [a]
    await queue.complete(a)
    assert await queue.send() is not None


async def test_key_strict_fifo_runs_the_jobs_of_a_key_in_order(queue: _Queue) -> None:
    queue.policy = _key_strict_fifo
    x1, y1, x2, x3 = [await queue.sent(key, retry_limit=1) for key in ("x", "y", "x", "x")]
    assert await queue.fetch() == [x1, y1]
    assert await queue.fetch() == []

    await queue.complete(y1)
    await queue.fail(x1)
    assert await queue.fetch() == []
    await queue.let_retries_fall_due()
    assert await queue.fetch() == [x1]

    await queue.fail(x1)
    assert await queue.status(x1) == "failed"
    y2 = await queue.sent("y")
    assert await queue.fetch() == [y2]

    await queue.retry(x1)
    assert await queue.fetch() == [x1]
    await queue.complete(x1)
    assert await queue.fetch() == [x2]
    await queue.complete(x2)
    assert await queue.fetch() == [x3]


@pytest.mark.parametrize("policy", [_short, _stately, _exclusive])
async def test_a_singleton_key_makes_it_hold_for_each_key(queue: _Queue, policy: _Policy) -> None:
    queue.policy = policy
    x, y = await queue.sent("x"), await queue.sent("y")
    assert [await queue.send("x"), await queue.send("y")] == [None, None]
    assert await queue.fetch() == [x, y]


async def test_a_singleton_key_lets_one_be_active_for_each_key(queue: _Queue) -> None:
    queue.policy = _singleton
    x1, x2, y1, y2 = [await queue.sent(key) for key in ("x", "x", "y", "y")]
    assert await queue.fetch() == [x1, y1]
    await queue.complete(y1)
    assert await queue.fetch() == [y2]
    await queue.complete(x1)
    assert await queue.fetch() == [x2]
