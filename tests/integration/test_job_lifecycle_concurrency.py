import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database import bulk_job_control, job_lifecycle
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import Cancellation, JobFailure, JobSnooze, ProgressReport
from millrace_database.job_options import JobOptions
from millrace_database.jobs_repository import get_jobs_changed
from millrace_queue import Lease, heartbeat, promote, register_worker
from support.queue_samples import (
    LEASE,
    PLENTY,
    blocked_by_others,
    claimed_jobs,
    created_jobs,
    disagreements,
    new_worker,
    sample_job,
)

_CLIENTS = 8
_COMMANDS = 400
_JOBS = 40

chance = random.Random()  # noqa: S311 - nothing secret


class _Client:
    """Sends random commands about jobs that others are busy with as well, with leases of anybody, in any order."""

    def __init__(
        self, conn: asyncpg.Connection, workers: list[UUID], jobs: list[UUID], leases: list[Lease]
    ) -> None:
        self.conn, self.workers, self.jobs, self.leases = conn, workers, jobs, leases

    async def run(self) -> None:
        commands = [self.claim] * 3 + [self.complete, self.fail, self.hand_back, self.stop, self.report] * 2
        commands += [self.cancel, self.retry, self.rescue, self.crash, self.beat, self.create, promote_all]
        commands += [
            self.snooze,
            self.stand_still,
            self.say_lost,
            self.expire,
            self.cancel_many,
            self.confirm,
        ]
        for _ in range(_COMMANDS):
            async with self.conn.transaction():
                await chance.choice(commands)(self.conn)

    async def claim(self, conn: asyncpg.Connection) -> None:
        capacity = {"a": chance.randint(1, 10), "b": chance.randint(1, 10)}
        claimed = await job_lifecycle.claim_jobs(conn, chance.choice(self.workers), capacity, 12)
        self.leases += [job.lease for job in claimed]

    async def complete(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.complete_jobs(conn, [(lease, "{}") for lease in self.some_leases()])

    async def fail(self, conn: asyncpg.Connection) -> None:
        delay = chance.choice([None, timedelta(), timedelta(milliseconds=5)])
        failures = [
            JobFailure(lease, delay, "BROKEN", "It broke.", retryable=True) for lease in self.some_leases()
        ]
        await job_lifecycle.fail_jobs(conn, failures)

    async def hand_back(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.hand_back_jobs(conn, self.some_leases())

    async def snooze(self, conn: asyncpg.Connection) -> None:
        delay = chance.choice([timedelta(), timedelta(milliseconds=5)])
        await job_lifecycle.snooze_jobs(conn, [JobSnooze(lease, delay) for lease in self.some_leases()])

    async def stand_still(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.lapse_jobs(conn, self.some_leases())

    async def say_lost(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.record_lost_leases(conn, self.some_leases())

    async def expire(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.expire_jobs(conn, limit=10)

    async def stop(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.cancelled_jobs(conn, self.some_leases())

    async def report(self, conn: asyncpg.Connection) -> None:
        reports = [ProgressReport(lease, 50) for lease in self.some_leases()]
        report = chance.choice((job_lifecycle.report_progress, job_lifecycle.report_progress_where_free))
        await report(conn, reports)

    async def cancel(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.cancel_job(conn, "acme", chance.choice(self.jobs))

    async def cancel_many(self, conn: asyncpg.Connection) -> None:
        await bulk_job_control.cancel_jobs(conn, chance.sample(self.jobs, k=2))

    async def confirm(self, conn: asyncpg.Connection) -> None:
        await millrace_queue.confirm(conn, self.some_leases())

    async def retry(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.retry_job(conn, "acme", chance.choice(self.jobs), 20)

    async def rescue(self, conn: asyncpg.Connection) -> None:
        await job_lifecycle.rescue_jobs(conn, limit=10)

    async def create(self, conn: asyncpg.Connection) -> None:
        requests = chance.sample(range(10), k=5)
        soon = await conn.fetchval("SELECT now() + interval '20 ms'")
        options = [None, JobOptions(deadline=soon, dead_letter_type="b")]
        await job_lifecycle.create_jobs(
            conn, [sample_job(request_id=f"r{number}", options=chance.choice(options)) for number in requests]
        )

    async def crash(self, conn: asyncpg.Connection) -> None:
        await conn.execute(
            "UPDATE queue_workers SET heartbeat_at = now() - lease * 2 WHERE worker_id = $1",
            chance.choice(self.workers),
        )

    async def beat(self, conn: asyncpg.Connection) -> None:
        worker_id = chance.choice(self.workers)
        if not (await heartbeat(conn, worker_id, draining=False)).known:
            await register_worker(conn, worker_id, lease=LEASE, details={})

    def some_leases(self) -> list[Lease]:
        recent = {lease.id: lease for lease in self.leases[-2 * _JOBS :]}
        return chance.sample(list(recent.values()), k=min(len(recent), 8))


async def promote_all(conn: asyncpg.Connection) -> None:
    await promote(conn, limit=PLENTY)


_Change = Callable[[asyncpg.Connection, Lease], Coroutine[Any, Any, Any]]
_CHANGES: dict[str, _Change] = {
    "complete": lambda conn, lease: job_lifecycle.complete_jobs(conn, [(lease, "{}")]),
    "complete plain": lambda conn, lease: job_lifecycle.complete_plain_jobs(conn, [(lease, "{}")]),
    "fail": lambda conn, lease: job_lifecycle.fail_jobs(
        conn, [JobFailure(lease, None, "BROKEN", "It broke.", retryable=False)]
    ),
    "retry": lambda conn, lease: job_lifecycle.fail_jobs(
        conn, [JobFailure(lease, timedelta(), "BROKEN", "It broke.", retryable=True)]
    ),
    "hand back": lambda conn, lease: job_lifecycle.hand_back_jobs(conn, [lease]),
    "snooze": lambda conn, lease: job_lifecycle.snooze_jobs(conn, [JobSnooze(lease, timedelta())]),
    "stand still": lambda conn, lease: job_lifecycle.lapse_jobs(conn, [lease]),
    "stop": lambda conn, lease: job_lifecycle.cancelled_jobs(conn, [lease]),
    "report": lambda conn, lease: job_lifecycle.report_progress(conn, [ProgressReport(lease, 50)]),
    "cancel": lambda conn, lease: job_lifecycle.cancel_job(conn, "acme", lease.id),
}


def _of(change: _Change, lease: Lease) -> Callable[[asyncpg.Connection], Coroutine[Any, Any, Any]]:
    return lambda conn: change(conn, lease)


async def test_each_change_may_meet_each_other_one(database: Database) -> None:
    """The second one waits for the first, and finds the job as the first left it."""
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        for (name, first), (other_name, second) in itertools.product(_CHANGES.items(), repeat=2):
            await created_jobs(database, sample_job())
            (claimed,) = await claimed_jobs(database, worker_id)
            if "stop" in (name, other_name):
                await job_lifecycle.cancel_job(conn, "acme", claimed.claim.id)
            transaction = conn.transaction()
            await transaction.start()
            await first(conn, claimed.lease)
            async with blocked_by_others(database, _of(second, claimed.lease)):
                await transaction.commit()
            assert await disagreements(conn) == [], f"{name}, then {other_name}"
            await conn.execute("DELETE FROM queue")
            await conn.execute("DELETE FROM jobs")


async def test_a_cancellation_that_meets_a_claim_reaches_the_worker(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        transaction = conn.transaction()
        await transaction.start()
        await job_lifecycle.claim_jobs(conn, worker_id, {"reports:generate": 1}, 1)
        async with blocked_by_others(
            database, lambda other: job_lifecycle.cancel_job(other, "acme", job_id)
        ) as cancelling:
            await transaction.commit()
            cancelled = await cancelling

        assert (cancelled.outcome, cancelled.worker_id) == (Cancellation.CANCELLING, worker_id)
        assert [
            held.cancel_requested for held in (await heartbeat(conn, worker_id, draining=False)).held
        ] == [True]
        assert await disagreements(conn) == []


async def test_clients_that_disturb_each_other_neither_deadlock_nor_break_anything(
    database: Database,
) -> None:
    jobs = await created_jobs(
        database, *(sample_job(type=chance.choice("ab"), max_attempts=50) for _ in range(_JOBS))
    )
    leases: list[Lease] = []
    workers = [new_id() for _ in range(4)]
    async with database.connection() as conn:
        for worker_id in workers:
            await register_worker(conn, worker_id, lease=LEASE, details={})

    async def run() -> None:
        conn = await database.direct_connection()
        try:
            await _Client(conn, workers, jobs, leases).run()
        finally:
            await conn.close()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for _ in range(_CLIENTS):
            tasks.create_task(run())

    async with database.connection() as conn:
        assert await disagreements(conn) == []
    assert len(leases) > _JOBS


async def test_a_watcher_never_sees_a_version_go_back_or_a_finished_job_change(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job(type="a", max_attempts=200))
    seen: list[tuple[int, str]] = []

    async def work(conn: asyncpg.Connection) -> None:
        worker_id = new_id()
        await register_worker(conn, worker_id, lease=LEASE, details={})
        for round_ in range(50):
            async with conn.transaction():
                (job,) = await job_lifecycle.claim_jobs(conn, worker_id, {"a": 1}, 1)
            async with conn.transaction():
                await job_lifecycle.report_progress(conn, [ProgressReport(job.lease, round_)])
            async with conn.transaction():
                if round_ < 49:
                    await job_lifecycle.hand_back_jobs(conn, [job.lease])
                else:
                    await job_lifecycle.complete_jobs(conn, [(job.lease, "{}")])

    async with database.connection() as conn, database.connection() as watcher, asyncio.TaskGroup() as tasks:
        working = tasks.create_task(work(conn))
        while not seen or seen[-1][1] != "completed":
            changed = await get_jobs_changed(watcher, {job_id: seen[-1][0] if seen else 0})
            seen += [(job.version, job.status) for job in changed]
            assert not working.done() or working.exception() is None

    versions = [version for version, _ in seen]
    assert versions == sorted(set(versions))
    assert seen[-1] == (151, "completed")
