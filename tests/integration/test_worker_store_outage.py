"""Jobs whose handlers meet an object store that is away wait for it, longer than most outages take."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from millrace_database.database import Database
from millrace_database.job_attempts_repository import list_attempts
from millrace_database.job_lifecycle import cancel_job, retry_job
from millrace_database.job_options import JobOptions, RetryRule
from millrace_database.jobs_repository import JobRecord
from millrace_queue import CHANNEL_READY, promote
from millrace_storage import StoreUnavailableError
from millrace_worker import Backoff, JobContext, JobError, Registry
from support.object_stores import chunks_of
from support.queue_samples import PLENTY, make_due
from support.s3_presigned import refusal
from support.s3_server import S3Bucket
from support.worker_runs import ORG, create, fetch, fetched, finished, read, worker

_TYPE = "orders:keep"
_QUARTER_OF_AN_HOUR = timedelta(minutes=15)
_QUICK = Backoff(base=timedelta(milliseconds=10))


@dataclass
class _Store:
    """What the handler meets."""

    error: Exception | None


@pytest.fixture
def store() -> _Store:
    return _Store(StoreUnavailableError("no answer"))


@pytest.fixture
def registry(store: _Store) -> Registry:
    registry = Registry()

    @registry.job_handler(_TYPE, backoff=_QUICK)
    async def keep(context: JobContext[dict[str, Any]]) -> None:
        if store.error:
            raise store.error.with_traceback(None)

    @registry.job_handler("orders:once", attempts=1)
    async def keep_once(context: JobContext[dict[str, Any]]) -> None:
        await keep(context)

    return registry


async def _put_off(database: Database, job_id: UUID, attempts: int) -> tuple[JobRecord, timedelta]:
    """The job once so many attempts of it have ended, and how long it waits for the next."""
    (row,) = await fetched(
        database,
        "SELECT coalesce(min(run_at) - max(ended_at), interval '0') AS wait, count(ended_at) AS attempts"
        " FROM job_attempts LEFT JOIN queue ON id = job_id",
        lambda rows: rows[0]["attempts"] == attempts,
    )
    return await read(database, job_id), row["wait"]


async def _let_pass(database: Database, time: timedelta) -> None:
    """Lets the time pass that the job waits for."""
    await fetch(
        database,
        "UPDATE job_attempts SET started_at = started_at - $1::interval, ended_at = ended_at - $1",
        time,
    )
    await fetch(database, "UPDATE queue SET enqueued_at = enqueued_at - $1::interval", time)
    async with database.transaction() as connection:
        await make_due(connection)
        await promote(connection, limit=PLENTY)
    await fetch(database, "SELECT pg_notify($1, $2)", CHANNEL_READY, _TYPE)


async def _attempts(database: Database, job_id: UUID) -> list[tuple[int, str, str | None]]:
    """The number, the end and the error of each, the first first."""
    async with database.connection() as connection:
        attempts = await list_attempts(connection, None, job_id, None, PLENTY)
    return [(attempt.attempt, attempt.outcome, attempt.error_code) for attempt in reversed(attempts)]


async def test_an_outage_takes_no_attempt_and_is_told(
    database: Database, registry: Registry, store: _Store, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, _TYPE, max_attempts=2)
        for number in range(1, 5):
            job, wait = await _put_off(database, job_id, number)
            assert (job.status, job.attempt, job.error_code) == ("pending", 0, "STORE_UNAVAILABLE")
            assert job.started_at is None
            await _let_pass(database, wait)
        await _put_off(database, job_id, 5)
        store.error = None
        await _let_pass(database, timedelta())
        job = await finished(database, job_id)

    assert (job.status, job.attempt, job.error_code) == ("completed", 1, None)
    assert await _attempts(database, job_id) == [
        *5 * [(1, "snoozed", "STORE_UNAVAILABLE")],
        (1, "completed", None),
    ]


async def test_each_attempt_of_a_job_outlasts_a_quarter_of_an_hour(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    waits: list[float] = []
    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, _TYPE, max_attempts=2)
        while True:
            job, wait = await _put_off(database, job_id, len(waits) + 1)
            if job.status == "failed":
                break
            waits.append(wait.total_seconds())
            await _let_pass(database, wait)

    assert (job.attempt, job.error_code) == (2, "STORE_UNAVAILABLE")
    rows = await fetch(
        database,
        "SELECT array_agg(outcome ORDER BY fence) AS outcomes, max(ended_at) - min(ended_at) AS patience"
        " FROM job_attempts GROUP BY attempt ORDER BY attempt",
    )
    assert len(rows) == 2
    for row in rows:
        *spared, last = row["outcomes"]
        assert (set(spared), last) == ({"snoozed"}, "failed")
        assert row["patience"] >= _QUARTER_OF_AN_HOUR
        assert len(spared) <= 9
    assert all(
        0.89 * wait < seconds < 1.11 * wait
        for wait, seconds in zip((5, 10, 20, 40, 80, 160, 300, 300), waits, strict=False)
    )


async def test_another_error_counts_and_ends_the_patience(
    database: Database, registry: Registry, store: _Store, tmp_path: Path
) -> None:
    away = store.error
    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, _TYPE, max_attempts=3)
        await _put_off(database, job_id, 1)
        store.error = JobError("BUSY", "Busy.", retryable=True, retry_after=timedelta(hours=1))
        await _let_pass(database, timedelta(hours=1))
        job, _ = await _put_off(database, job_id, 2)
        assert (job.attempt, job.error_code) == (1, "BUSY")
        store.error = away
        await _let_pass(database, timedelta(hours=1))
        job, _ = await _put_off(database, job_id, 3)

    assert (job.status, job.attempt) == ("pending", 1)
    assert await _attempts(database, job_id) == [
        (1, "snoozed", "STORE_UNAVAILABLE"),
        (1, "failed", "BUSY"),
        (2, "snoozed", "STORE_UNAVAILABLE"),
    ]


async def test_what_a_worker_handed_back_does_not_begin_the_patience_anew(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, _TYPE)
        await _put_off(database, job_id, 1)
        await fetch(
            database,
            "INSERT INTO job_attempts (job_id, fence, attempt, outcome)"
            " SELECT job_id, nextval('queue_fence'), 1, 'handed_back' FROM jobs",
        )
        await _let_pass(database, _QUARTER_OF_AN_HOUR)
        await _put_off(database, job_id, 3)

    assert [outcome for _, outcome, _ in await _attempts(database, job_id)] == [
        "snoozed",
        "handed_back",
        "failed",
    ]


@pytest.mark.parametrize(
    ("type_", "options", "attempts"),
    [
        (_TYPE, JobOptions(retry=RetryRule(initial_delay=timedelta(milliseconds=10))), 2),
        (_TYPE, JobOptions(retry=RetryRule(jitter=0), names_attempts=True), 2),
        ("orders:once", None, 1),
        (_TYPE, None, 1),
    ],
)
async def test_a_job_is_tried_as_its_creator_and_its_type_say(
    database: Database,
    registry: Registry,
    tmp_path: Path,
    *,
    type_: str,
    options: JobOptions | None,
    attempts: int,
) -> None:
    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, type_, max_attempts=attempts, options=options)
        job = await finished(database, job_id)

    assert (job.status, job.error_code) == ("failed", "STORE_UNAVAILABLE")
    assert await _attempts(database, job_id) == [
        (number, "failed", "STORE_UNAVAILABLE") for number in range(1, attempts + 1)
    ]


async def test_a_number_of_attempts_that_was_named_is_kept_with_longer_waits(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    waits = []
    async with worker(database, registry, tmp_path):
        options = JobOptions(names_attempts=True)
        (job_id,) = await create(database, _TYPE, max_attempts=3, options=options)
        for number in (1, 2):
            job, wait = await _put_off(database, job_id, number)
            assert (job.status, job.attempt) == ("pending", number)
            waits.append(wait.total_seconds())
            await _let_pass(database, wait)
        job = await finished(database, job_id)

    assert (job.status, job.attempt, job.error_code) == ("failed", 3, "STORE_UNAVAILABLE")
    assert all(0.89 * wait < second < 1.11 * wait for wait, second in zip((5, 10), waits, strict=True))


async def test_a_deadline_that_comes_first_holds(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        (row,) = await fetch(database, "SELECT now() + interval '70 s' AS deadline")
        options = JobOptions(deadline=row["deadline"])
        (job_id,) = await create(database, _TYPE, options=options)
        for number in range(1, 5):
            _, wait = await _put_off(database, job_id, number)
            await _let_pass(database, wait)
        job = await finished(database, job_id)

    assert (job.status, job.attempt, job.error_code) == ("failed", 1, "STORE_UNAVAILABLE")
    assert job.error_message == (
        "The object store cannot be reached. (Its deadline left no time for another attempt.)"
    )
    *spared, last = await _attempts(database, job_id)
    assert spared == 4 * [(1, "snoozed", "STORE_UNAVAILABLE")]
    assert last == (1, "failed", "STORE_UNAVAILABLE")


async def test_a_job_that_is_retried_has_the_whole_patience(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        (job_id,) = await create(database, _TYPE)
        await _put_off(database, job_id, 1)
        async with database.transaction() as connection:
            await cancel_job(connection, ORG, job_id)
        await _let_pass(database, timedelta(hours=1))
        async with database.transaction() as connection:
            await retry_job(connection, ORG, job_id, further_attempts=4)
        await _let_pass(database, timedelta())
        job, wait = await _put_off(database, job_id, 2)
        assert (job.status, job.attempt, job.error_code) == ("pending", 0, "STORE_UNAVAILABLE")
        assert 4.4 < wait.total_seconds() < 5.6
        await _let_pass(database, _QUARTER_OF_AN_HOUR)
        await _put_off(database, job_id, 3)

    assert [outcome for _, outcome, _ in await _attempts(database, job_id)] == [
        "snoozed",
        "snoozed",
        "failed",
    ]


async def test_a_job_that_waits_is_run_at_once_when_it_is_retried(
    database: Database, registry: Registry, store: _Store, tmp_path: Path
) -> None:
    async with worker(database, registry, tmp_path):
        options = JobOptions(retry=RetryRule(initial_delay=timedelta(hours=1), max_delay=timedelta(hours=1)))
        (job_id,) = await create(database, _TYPE, options=options)
        _, wait = await _put_off(database, job_id, 1)
        assert wait > timedelta(minutes=50)
        store.error = None
        async with database.transaction() as connection:
            await retry_job(connection, ORG, job_id, further_attempts=4)
        await fetch(database, "SELECT pg_notify($1, $2)", CHANNEL_READY, _TYPE)
        job = await finished(database, job_id)

    assert (job.status, job.attempt, job.max_attempts) == ("completed", 2, 4)


async def test_a_file_is_stored_once_its_server_is_back(
    database: Database, tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    registry, is_away = Registry(), True

    async def away(_: web.BaseRequest, __: bytes) -> web.Response | None:
        return refusal(503, "SlowDown") if is_away else None

    @registry.job_handler(_TYPE)
    async def keep(context: JobContext[dict[str, Any]]) -> None:
        await context.resources.files.save(
            org_id=context.org_id,
            name="a",
            content_type="text/plain",
            created_by="",
            chunks=chunks_of(b"content"),
        )

    s3 = {
        "storage_provider": "s3",
        "s3_bucket": s3_bucket.name,
        "s3_endpoint": s3_bucket.proxy.url,
        "s3_attempts": 1,
    }
    async with worker(database, registry, tmp_path, **s3):
        s3_bucket.proxy.always.append(away)
        (job_id,) = await create(database, _TYPE)
        job, _ = await _put_off(database, job_id, 1)
        assert (job.status, job.error_code) == ("pending", "STORE_UNAVAILABLE")
        is_away = False
        await _let_pass(database, timedelta())
        job = await finished(database, job_id)

    assert (job.status, job.attempt) == ("completed", 1)
    assert len(await fetch(database, "SELECT FROM files WHERE deleted_at IS NULL")) == 1
