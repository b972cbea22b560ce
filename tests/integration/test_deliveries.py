import json
from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from millrace_database.bulk_job_control import cancel_jobs
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_flow import JobCounts
from millrace_database.job_lifecycle import (
    JobFailure,
    cancel_job,
    cancelled_jobs,
    claim_jobs,
    complete_jobs,
    create_jobs,
    expire_jobs,
    fail_jobs,
    lapse_jobs,
    rescue_jobs,
)
from millrace_database.job_options import JobOptions
from support.deliveries import MADE, SECRET, add_schedule, end_job, start_job
from support.queue_samples import PLENTY, disagreements, new_worker, sample_failure, sample_job

WEBHOOK = {"webhook": {"url": "https://example.com/hook", "secret": SECRET}}
EMAIL = {"email": {"to": ["ann@example.com"]}}
STORAGE = {"storage": {"path": "reports/{{file_name}}"}}


async def _deliveries(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    assert await disagreements(conn) == []
    return list(await conn.fetch("SELECT * FROM jobs WHERE parent_job_id IS NOT NULL ORDER BY job_id"))


@pytest.mark.parametrize(
    ("delivery", "type_"),
    [(WEBHOOK, "deliveries:webhook"), (EMAIL, "deliveries:email"), (STORAGE, "deliveries:storage")],
)
async def test_a_job_that_completes_has_a_delivery(
    database: Database, delivery: dict[str, Any], type_: str
) -> None:
    async with database.transaction() as conn:
        job = await start_job(conn, await add_schedule(conn, delivery))
        created: JobCounts = Counter()
        await complete_jobs(conn, [(job.lease, '{"rows": 3}')], created=created)

        (row,) = await _deliveries(conn)
        (claimed,) = await claim_jobs(conn, await new_worker(conn), {type_: 1}, 1)
    assert created == {(type_, "acme"): 1}
    assert (row["type"], row["org_id"], row["created_by"]) == (type_, "acme", "ann")
    assert (row["parent_job_id"], row["schedule_id"]) == (job.claim.id, None)
    assert claimed.claim.id == row["job_id"]
    assert json.loads(claimed.input_json) == {"job_id": format_id("job", job.claim.id)}


@pytest.mark.parametrize("delivery", [None, {"download": {}, "on_failure": True}])
async def test_what_is_downloaded_has_none(database: Database, delivery: dict[str, Any] | None) -> None:
    async with database.transaction() as conn:
        job = await start_job(conn, await add_schedule(conn, delivery))
        await complete_jobs(conn, [(job.lease, None)])
        assert await _deliveries(conn) == []


async def test_only_jobs_whose_creator_says_so_have_one(database: Database) -> None:
    async with database.transaction() as conn:
        schedule_id = await add_schedule(conn, {**WEBHOOK, "on_failure": True})
        foreign = await add_schedule(conn, WEBHOOK, org_id="umbrella")
        jobs = [
            await start_job(conn, schedule_id, delivers=False),
            await start_job(conn, None),
            await start_job(conn, foreign),
        ]
        await complete_jobs(conn, [(job.lease, None) for job in jobs])
        await fail_jobs(conn, [sample_failure(await start_job(conn, schedule_id, delivers=False), None)])
        assert await _deliveries(conn) == []


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        (WEBHOOK, []),
        ({**WEBHOOK, "on_failure": True}, ["deliveries:webhook"]),
        ({**EMAIL, "on_failure": True}, ["deliveries:email"]),
        ({**STORAGE, "on_failure": True}, []),
    ],
)
async def test_a_failure_is_delivered_if_asked_for(
    database: Database, delivery: dict[str, Any], expected: list[str]
) -> None:
    async with database.transaction() as conn:
        schedule_id = await add_schedule(conn, delivery)
        created: JobCounts = Counter()
        job = await start_job(conn, schedule_id)
        await fail_jobs(conn, [JobFailure(job.lease, None, "LOST", "lost", retryable=False)], created=created)
        assert [row["type"] for row in await _deliveries(conn)] == expected
        assert created == Counter((type_, "acme") for type_ in expected)


async def test_an_attempt_that_is_followed_by_another_is_not_delivered(database: Database) -> None:
    async with database.transaction() as conn:
        job = await start_job(conn, await add_schedule(conn, {**WEBHOOK, "on_failure": True}))
        await fail_jobs(conn, [sample_failure(job, timedelta())])
        assert await _deliveries(conn) == []


async def test_a_job_that_missed_its_deadline_is_delivered_as_a_failure(database: Database) -> None:
    async with database.transaction() as conn:
        schedule_id = await add_schedule(conn, {**WEBHOOK, "on_failure": True})
        job = sample_job(type=MADE, schedule_id=schedule_id, options=JobOptions(delivers=True))
        await create_jobs(conn, [job])
        await conn.execute("UPDATE queue SET expires_at = now()")
        await expire_jobs(conn, limit=PLENTY)
        assert [row["parent_job_id"] for row in await _deliveries(conn)] == [job.job_id]


async def test_a_job_whose_workers_were_lost_is_delivered_as_a_failure(database: Database) -> None:
    async with database.transaction() as conn:
        schedule_id = await add_schedule(conn, {**WEBHOOK, "on_failure": True})
        job = await start_job(conn, schedule_id, max_attempts=1)
        again = await start_job(conn, schedule_id)
        await conn.execute("UPDATE queue_workers SET heartbeat_at = heartbeat_at - 2 * lease")
        created: JobCounts = Counter()
        await rescue_jobs(conn, limit=PLENTY, created=created)
        assert [row["parent_job_id"] for row in await _deliveries(conn)] == [job.claim.id]
        assert created == {("deliveries:webhook", "acme"): 1}
        assert await conn.fetchval("SELECT status FROM jobs WHERE job_id = $1", again.claim.id) == "pending"


async def test_a_job_whose_worker_stood_still_is_delivered_as_a_failure(database: Database) -> None:
    async with database.transaction() as conn:
        schedule_id = await add_schedule(conn, {**WEBHOOK, "on_failure": True})
        job = await start_job(conn, schedule_id, max_attempts=1)
        await lapse_jobs(conn, [job.lease])
        assert [row["parent_job_id"] for row in await _deliveries(conn)] == [job.claim.id]


async def test_jobs_that_are_cancelled_all_at_once_have_none(database: Database) -> None:
    async with database.transaction() as conn:
        schedule_id = await add_schedule(conn, {**WEBHOOK, "on_failure": True})
        job = sample_job(type=MADE, schedule_id=schedule_id, options=JobOptions(delivers=True))
        await create_jobs(conn, [job])
        await cancel_jobs(conn, [job.job_id])
        assert await conn.fetchval("SELECT status FROM jobs") == "cancelled"
        assert await _deliveries(conn) == []


async def test_a_cancelled_job_has_none(database: Database) -> None:
    async with database.transaction() as conn:
        job = await start_job(conn, await add_schedule(conn, {**WEBHOOK, "on_failure": True}))
        await cancel_job(conn, "acme", job.claim.id)
        await cancelled_jobs(conn, [job.lease])
        assert await _deliveries(conn) == []


async def test_the_delivery_is_made_in_the_transaction_that_ends_the_job(database: Database) -> None:
    async with database.transaction() as conn:
        job = await start_job(conn, await add_schedule(conn, WEBHOOK))
    async with database.connection() as conn:
        cut_short = conn.transaction()
        await cut_short.start()
        await complete_jobs(conn, [(job.lease, None)])
        assert len(await _deliveries(conn)) == 1
        await cut_short.rollback()
    async with database.transaction() as conn:
        assert await _deliveries(conn) == []
        assert await conn.fetchval("SELECT status FROM jobs") == "processing"
        await complete_jobs(conn, [(job.lease, None)])
        # A repetition by a worker that does not know that it was done.
        assert await complete_jobs(conn, [(job.lease, None)]) == set()
        assert len(await _deliveries(conn)) == 1


async def test_a_delivery_delivers_nothing_itself(database: Database) -> None:
    async with database.transaction() as conn:
        await end_job(conn, {**WEBHOOK, "on_failure": True})
        (delivery,) = await claim_jobs(conn, await new_worker(conn), {"deliveries:webhook": 1}, 1)
        await fail_jobs(conn, [sample_failure(delivery, None)])
        assert len(await _deliveries(conn)) == 1


async def test_the_secret_of_a_webhook_is_in_no_job(database: Database) -> None:
    async with database.transaction() as conn:
        await end_job(conn, WEBHOOK)
        rows = await conn.fetch("SELECT jobs::text FROM jobs")
    assert len(rows) == 2
    assert not [row for row in rows if SECRET.removeprefix("whsec_") in row[0]]
