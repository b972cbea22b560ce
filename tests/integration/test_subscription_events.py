import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from millrace_database.bulk_job_control import cancel_jobs
from millrace_database.database import Database
from millrace_database.deliveries import DELIVERY_TYPES, EVENT_TYPE
from millrace_database.ids import format_id
from millrace_database.job_control import retry_job
from millrace_database.job_flow import JobCounts
from millrace_database.job_lifecycle import (
    ClaimedJob,
    JobFailure,
    JobSnooze,
    cancel_job,
    cancelled_jobs,
    claim_jobs,
    complete_jobs,
    complete_plain_jobs,
    create_jobs,
    expire_jobs,
    fail_jobs,
    hand_back_jobs,
    lapse_jobs,
    rescue_jobs,
    snooze_jobs,
)
from millrace_database.job_options import JobOptions, UniqueRule
from millrace_database.subscription_event_statements import EVENTS_AT_ONCE
from millrace_database.subscriptions_repository import pause_subscription
from millrace_worker.maintenance import OrphanReturner
from support.deliveries import SECRET
from support.queue_samples import PLENTY, disagreements, new_worker, sample_failure, sample_job
from support.subscriptions import add_subscription, event_jobs

_Ending: TypeAlias = Callable[[asyncpg.Connection, JobCounts], Awaitable[None]]


async def _started(conn: asyncpg.Connection, type_: str = "reports:generate", **changes: Any) -> ClaimedJob:
    """A job that runs."""
    await create_jobs(conn, [sample_job(type=type_, **changes)])
    (claimed,) = await claim_jobs(conn, await new_worker(conn), {type_: 1}, 1)
    return claimed


async def _told(conn: asyncpg.Connection) -> list[str]:
    """Which events there are, in the order in which they came."""
    assert await disagreements(conn) == []
    return [json.loads(row["metadata"])["event"] for row in await event_jobs(conn)]


async def _complete(conn: asyncpg.Connection, created: JobCounts) -> None:
    await complete_jobs(conn, [((await _started(conn)).lease, '{"rows": 3}')], created=created)


async def _complete_though_cancelled(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = await _started(conn)
    await cancel_job(conn, "acme", job.claim.id)
    await complete_jobs(conn, [(job.lease, None)], created=created)


async def _fail(conn: asyncpg.Connection, created: JobCounts) -> None:
    await fail_jobs(conn, [sample_failure(await _started(conn), None)], created=created)


async def _time_out(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = await _started(conn, max_attempts=1)
    failure = JobFailure(job.lease, None, "TIMED_OUT", "", retryable=True, timed_out=True)
    await fail_jobs(conn, [failure], created=created)


async def _fail_while_cancelling(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = await _started(conn)
    await cancel_job(conn, "acme", job.claim.id)
    await fail_jobs(conn, [sample_failure(job, timedelta())], created=created)


async def _find_the_key_taken(conn: asyncpg.Connection, created: JobCounts) -> None:
    options = JobOptions(unique=UniqueRule("key", states="each"))
    first = await _started(conn, options=options)
    await fail_jobs(conn, [sample_failure(first, timedelta(hours=1))])
    second = await _started(conn, options=options)
    await fail_jobs(conn, [sample_failure(second, timedelta(hours=1))], created=created)


async def _stand_still(conn: asyncpg.Connection, created: JobCounts) -> None:
    await lapse_jobs(conn, [(await _started(conn, max_attempts=1)).lease], created=created)


async def _lose_workers(conn: asyncpg.Connection, created: JobCounts, *, attempts: int = 1) -> None:
    await _started(conn, max_attempts=attempts)
    await conn.execute("UPDATE queue_workers SET heartbeat_at = heartbeat_at - 2 * lease")
    await rescue_jobs(conn, limit=PLENTY, created=created)


async def _lose_three_workers(conn: asyncpg.Connection, created: JobCounts) -> None:
    await _lose_workers(conn, created, attempts=10)
    for _ in range(2):
        assert not created
        assert await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
        await conn.execute("UPDATE queue_workers SET heartbeat_at = heartbeat_at - 2 * lease")
        await rescue_jobs(conn, limit=PLENTY, created=created)


async def _lose_the_worker_while_cancelling(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = await _started(conn)
    await cancel_job(conn, "acme", job.claim.id)
    await conn.execute("UPDATE queue_workers SET heartbeat_at = heartbeat_at - 2 * lease")
    await rescue_jobs(conn, limit=PLENTY, created=created)


async def _miss_the_deadline(conn: asyncpg.Connection, created: JobCounts) -> None:
    await create_jobs(conn, [sample_job()])
    await conn.execute("UPDATE queue SET expires_at = now()")
    await expire_jobs(conn, limit=PLENTY, created=created)


async def _cancel_waiting(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = sample_job()
    await create_jobs(conn, [job])
    created.update((await cancel_job(conn, "acme", job.job_id)).created)


async def _cancel_many(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = sample_job()
    await create_jobs(conn, [job])
    created.update((await cancel_jobs(conn, [job.job_id])).created)


async def _stop(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = await _started(conn)
    await cancel_job(conn, "acme", job.claim.id)
    await cancelled_jobs(conn, [job.lease], created=created)


async def _hand_back_while_cancelling(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = await _started(conn)
    await cancel_job(conn, "acme", job.claim.id)
    await hand_back_jobs(conn, [job.lease], created=created)


async def _snooze_while_cancelling(conn: asyncpg.Connection, created: JobCounts) -> None:
    job = await _started(conn)
    await cancel_job(conn, "acme", job.claim.id)
    await snooze_jobs(conn, [JobSnooze(job.lease, timedelta(hours=1))], created=created)


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (_complete, "job.completed"),
        (_complete_though_cancelled, "job.completed"),
        (_fail, "job.failed"),
        (_time_out, "job.failed"),
        (_find_the_key_taken, "job.failed"),
        (_stand_still, "job.failed"),
        (_lose_workers, "job.failed"),
        (_lose_three_workers, "job.failed"),
        (_miss_the_deadline, "job.failed"),
        (_cancel_waiting, "job.cancelled"),
        (_cancel_many, "job.cancelled"),
        (_stop, "job.cancelled"),
        (_fail_while_cancelling, "job.cancelled"),
        (_lose_the_worker_while_cancelling, "job.cancelled"),
        (_hand_back_while_cancelling, "job.cancelled"),
        (_snooze_while_cancelling, "job.cancelled"),
    ],
)
async def test_a_job_that_ends_has_one_event(database: Database, end: _Ending, event: str) -> None:
    async with database.transaction() as conn:
        await add_subscription(conn)
        created: JobCounts = Counter()
        await end(conn, created)
        assert await _told(conn) == [event]
        [row] = await event_jobs(conn)
        ended = await conn.fetchval("SELECT job_id FROM jobs WHERE 'job.' || status = $1", event)
    assert created == {(EVENT_TYPE, "acme"): 1}
    assert row["parent_job_id"] == ended


async def test_an_end_that_is_none_has_no_event(database: Database) -> None:
    async with database.transaction() as conn:
        await add_subscription(conn)
        await fail_jobs(conn, [sample_failure(await _started(conn), timedelta(hours=1))])
        await hand_back_jobs(conn, [(await _started(conn)).lease])
        job = await _started(conn)
        await snooze_jobs(conn, [JobSnooze(job.lease, timedelta(hours=1))])
        running = await _started(conn)
        await cancel_job(conn, "acme", running.claim.id)
        assert await _told(conn) == []


async def test_the_job_of_an_event_says_what_it_is(database: Database) -> None:
    async with database.transaction() as conn:
        subscription_id = format_id("subscription", await add_subscription(conn))
        job = await _started(conn, created_by="bob", priority=50)
        await complete_jobs(conn, [(job.lease, None)])
        [row] = await event_jobs(conn)
        [claimed] = await claim_jobs(conn, await new_worker(conn), {EVENT_TYPE: 1}, 1)
        texts = await conn.fetch("SELECT jobs::text FROM jobs")
    assert (row["org_id"], row["created_by"], row["priority"]) == ("acme", "bob", 0)
    assert json.loads(row["metadata"]) == {"subscription_id": subscription_id, "event": "job.completed"}
    assert claimed.claim.id == row["job_id"]
    assert json.loads(claimed.input_json) == {
        "subscription_id": subscription_id,
        "event": "job.completed",
        "job_id": format_id("job", job.claim.id),
    }
    secrets = (SECRET.removeprefix("whsec_"), "key-in-path")
    assert not [text for (text,) in texts if any(secret in text for secret in secrets)]


async def test_each_subscription_hears_what_it_asked_for(database: Database) -> None:
    async with database.transaction() as conn:
        wanted = [
            await add_subscription(conn),
            await add_subscription(conn, event_types=["job.failed", "job.completed"]),
            await add_subscription(conn, job_types=["imports:load", "reports:generate"]),
        ]
        await add_subscription(conn, event_types=["job.failed", "job.cancelled"])
        await add_subscription(conn, job_types=["imports:load"])
        await add_subscription(conn, org_id="umbrella")
        paused = await add_subscription(conn)
        await pause_subscription(conn, "acme", paused)
        await complete_jobs(conn, [((await _started(conn)).lease, None)])
        rows = await event_jobs(conn)
    assert {json.loads(row["metadata"])["subscription_id"] for row in rows} == {
        format_id("subscription", subscription_id) for subscription_id in wanted
    }
    assert len(rows) == len(wanted)


@pytest.mark.parametrize("type_", sorted(DELIVERY_TYPES))
async def test_deliveries_have_no_events(database: Database, type_: str) -> None:
    async with database.transaction() as conn:
        await add_subscription(conn)
        await complete_jobs(conn, [((await _started(conn, type_)).lease, None)])
        await fail_jobs(conn, [sample_failure(await _started(conn, type_), None)])
        job = sample_job(type=type_)
        await create_jobs(conn, [job])
        await cancel_job(conn, "acme", job.job_id)
        rows = await conn.fetch("SELECT FROM jobs WHERE parent_job_id IS NOT NULL")
    assert rows == []


async def test_a_job_that_ends_again_has_another_event(database: Database) -> None:
    async with database.transaction() as conn:
        await add_subscription(conn)
        job = await _started(conn)
        await fail_jobs(conn, [sample_failure(job, None)])
        await retry_job(conn, "acme", job.claim.id, 3)
        [again] = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1)
        await complete_jobs(conn, [(again.lease, None)])
        assert sorted(await _told(conn)) == ["job.completed", "job.failed"]


async def test_what_is_written_twice_has_one_event(database: Database) -> None:
    async with database.transaction() as conn:
        await add_subscription(conn)
        job = await _started(conn)
        assert await complete_jobs(conn, [(job.lease, None)]) == {job.claim.id}
        assert await complete_jobs(conn, [(job.lease, None)]) == set()
        await fail_jobs(conn, [sample_failure(job, None)])
        assert await _told(conn) == ["job.completed"]


async def test_the_event_is_made_in_the_transaction_that_ends_the_job(database: Database) -> None:
    async with database.transaction() as conn:
        await add_subscription(conn)
        job = await _started(conn)
    async with database.connection() as conn:
        cut_short = conn.transaction()
        await cut_short.start()
        await complete_jobs(conn, [(job.lease, None)])
        assert await _told(conn) == ["job.completed"]
        await cut_short.rollback()
        assert await _told(conn) == []
        assert await conn.fetchval("SELECT status FROM jobs") == "processing"


async def test_who_finds_a_claim_whose_reply_was_lost_tells_of_its_event(database: Database) -> None:
    told = asyncio.Event()
    counted: JobCounts = Counter()

    def created(counts: JobCounts) -> None:
        counted.update(counts)
        told.set()

    async with database.transaction() as conn:
        await add_subscription(conn)
        job = await _started(conn)
        await cancel_job(conn, "acme", job.claim.id)
    orphans = OrphanReturner(database, created=created)
    returning = asyncio.create_task(orphans.run())
    orphans.hand_back([job.lease])
    try:
        async with asyncio.timeout(20):
            await told.wait()
    finally:
        returning.cancel()
        await asyncio.gather(returning, return_exceptions=True)
    assert counted == {(EVENT_TYPE, "acme"): 1}
    async with database.connection() as conn:
        assert await _told(conn) == ["job.cancelled"]


async def test_only_ordinary_jobs_of_organisations_without_subscriptions_are_completed_alone(
    database: Database,
) -> None:
    async with database.transaction() as conn:
        await add_subscription(conn)
        paused = await add_subscription(conn, org_id="paused")
        await pause_subscription(conn, "paused", paused)
        jobs = {org_id: await _started(conn, org_id=org_id) for org_id in ("acme", "paused", "umbrella")}
        accepted = await complete_plain_jobs(conn, [(job.lease, None) for job in jobs.values()])
        assert accepted == {jobs["paused"].claim.id, jobs["umbrella"].claim.id}
        assert await _told(conn) == []
        assert await complete_jobs(conn, [(jobs["acme"].lease, None)]) == {jobs["acme"].claim.id}
        assert await _told(conn) == ["job.completed"]


async def test_one_subscription_does_not_take_the_places_of_others(database: Database) -> None:
    async with database.transaction() as conn:
        first = await add_subscription(conn)
        jobs = [await _started(conn) for _ in range(3 * EVENTS_AT_ONCE)]
        await complete_jobs(conn, [(job.lease, None) for job in jobs])
        await add_subscription(conn, event_types=["job.failed"])
        await fail_jobs(conn, [sample_failure(await _started(conn), None)])
    async with database.transaction() as conn:
        claimed = await claim_jobs(conn, await new_worker(conn), {EVENT_TYPE: PLENTY}, PLENTY)
    counts = Counter(json.loads(job.input_json)["subscription_id"] for job in claimed)
    assert counts.pop(format_id("subscription", first)) == EVENTS_AT_ONCE
    assert list(counts.values()) == [1]
