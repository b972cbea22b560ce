import json
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database.bulk_job_control import retry_jobs
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_flow import JobCounts
from millrace_database.job_lifecycle import (
    ClaimedJob,
    cancel_job,
    cancelled_jobs,
    claim_jobs,
    create_jobs,
    expire_jobs,
    fail_jobs,
    lapse_jobs,
    retry_job,
)
from millrace_database.job_options import JobOptions, TypeOptions
from millrace_database.job_types_repository import PublishedType, publish_job_types
from support.queue_samples import PLENTY, disagreements, new_worker, sample_failure, sample_job

_DEAD = JobOptions(dead_letter_type="reports:dead")


async def _run(conn: asyncpg.Connection, type_: str = "reports:generate", **changes: Any) -> ClaimedJob:
    """A job that runs."""
    await create_jobs(conn, [sample_job(type=type_, **changes)])
    return await _claim(conn, type_)


async def _claim(conn: asyncpg.Connection, type_: str) -> ClaimedJob:
    (claimed,) = await claim_jobs(conn, await new_worker(conn), {type_: 1}, 1)
    return claimed


async def _letters(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    assert await disagreements(conn) == []
    return list(await conn.fetch("SELECT * FROM jobs WHERE parent_job_id IS NOT NULL ORDER BY job_id"))


def _published(type_: str, *, max_attempts: int = 4, dead_letter: str | None = None) -> PublishedType:
    options = TypeOptions(dead_letter_type=dead_letter)
    return PublishedType(type_, type_, "", "{}", max_attempts, timedelta(minutes=1), 1, options)


async def test_a_job_that_fails_for_good_has_a_dead_letter(database: Database) -> None:
    async with database.transaction() as conn:
        await publish_job_types(conn, [_published("reports:dead", max_attempts=7)])
        job = await _run(conn, options=_DEAD, metadata_json='{"shop": "north"}', org_id="umbrella")
        created: JobCounts = Counter()
        assert await fail_jobs(conn, [sample_failure(job, timedelta())], created=created)
        assert (created, await _letters(conn)) == (Counter(), [])
        job = await _claim(conn, "reports:generate")
        await fail_jobs(conn, [sample_failure(job, None)], created=created)

        (letter,) = await _letters(conn)
        claimed = await _claim(conn, "reports:dead")
    assert created == {("reports:dead", "umbrella"): 1}
    assert json.loads(claimed.input_json) == {
        "job_id": format_id("job", job.claim.id),
        "type": "reports:generate",
        "input": {"rows": 3},
        "metadata": {"shop": "north"},
        "attempts": 2,
        "error": {"code": "DISK_FULL", "message": "No space left"},
    }
    assert (letter["org_id"], letter["created_by"], letter["parent_job_id"]) == (
        "umbrella",
        "ann",
        job.claim.id,
    )
    assert (letter["metadata"], letter["max_attempts"], claimed.claim.max_attempts) == ("{}", 7, 7)


async def test_a_dead_letter_whose_type_nobody_has_published_gets_the_ordinary_attempts(
    database: Database,
) -> None:
    async with database.transaction() as conn:
        for max_attempts in (1, 50):
            job = await _run(conn, options=_DEAD, max_attempts=max_attempts)
            await fail_jobs(conn, [sample_failure(job, None)])

        one, other = await _letters(conn)
        assert (one["max_attempts"], other["max_attempts"]) == (4, 4)
        await cancel_job(conn, "acme", other["job_id"])
        for used in (1, 2):
            claimed = await _claim(conn, "reports:dead")
            await fail_jobs(conn, [sample_failure(claimed, None)])
            await retry_jobs(conn, [one["job_id"]], ["failed"])
            assert await conn.fetchval("SELECT max_attempts FROM queue") == used + 4


async def test_the_type_says_whether_its_jobs_have_dead_letters(database: Database) -> None:
    async with database.transaction() as conn:
        await publish_job_types(conn, [_published("reports:generate", dead_letter="reports:lost")])
        ordinary, own_word, other = (
            await _run(conn),
            await _run(conn, options=_DEAD),
            await _run(conn, "imports:load"),
        )
        await fail_jobs(conn, [sample_failure(job, None) for job in (ordinary, own_word, other)])

        letters = {row["parent_job_id"]: row["type"] for row in await _letters(conn)}
    assert letters == {ordinary.claim.id: "reports:lost", own_word.claim.id: "reports:dead"}


async def test_quarantined_and_expired_jobs_have_dead_letters(database: Database) -> None:
    async with database.transaction() as conn:
        created: JobCounts = Counter()
        job = await _run(conn, options=_DEAD, max_attempts=9)
        for _ in range(3):
            await lapse_jobs(conn, [job.lease], created=created)
            (job,) = await claim_jobs(conn, await new_worker(conn), {"reports:generate": 1}, 1) or [job]
        assert created == {("reports:dead", "acme"): 1}
        await create_jobs(conn, [sample_job(options=_DEAD)])
        await conn.execute("UPDATE queue SET expires_at = now() WHERE type = 'reports:generate'")
        await expire_jobs(conn, limit=PLENTY)

        codes = [json.loads(row["input"])["error"]["code"] for row in await _letters(conn)]
    assert codes == ["QUARANTINED", "DEADLINE_EXCEEDED"]


async def test_cancelled_jobs_have_none(database: Database) -> None:
    async with database.transaction() as conn:
        running, failing = await _run(conn, options=_DEAD), await _run(conn, options=_DEAD)
        await create_jobs(conn, [waiting := sample_job(options=_DEAD)])
        for job_id in (running.claim.id, failing.claim.id, waiting.job_id):
            await cancel_job(conn, "acme", job_id)
        await cancelled_jobs(conn, [running.lease])
        await fail_jobs(conn, [sample_failure(failing, None)])

        assert await _letters(conn) == []


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"a:a": "d:d", "d:d": "d:d"}, ["d:d"]),
        ({"a:a": "d:d", "d:d": "e:e", "e:e": "d:d"}, ["d:d", "e:e"]),
        ({"a:a": "d:d", "d:d": "a:a"}, ["d:d"]),
        ({"a:a": "a:a"}, []),
    ],
)
async def test_dead_letters_do_not_go_on_without_end(
    database: Database, rules: dict[str, str], expected: list[str]
) -> None:
    async with database.transaction() as conn:
        await publish_job_types(
            conn, [_published(type_, dead_letter=dead_letter) for type_, dead_letter in rules.items()]
        )
        job = await _run(conn, "a:a")
        await fail_jobs(conn, [sample_failure(job, None)])
        parents: list[UUID] = [job.claim.id]
        for type_ in expected:
            job = await _claim(conn, type_)
            parents.append(job.claim.id)
            await fail_jobs(conn, [sample_failure(job, None)])

        letters = await _letters(conn)
    assert [(row["type"], row["parent_job_id"]) for row in letters] == list(
        zip(expected, parents, strict=False)
    )


async def test_a_job_that_is_retried_and_fails_again_has_another_one(database: Database) -> None:
    async with database.transaction() as conn:
        job = await _run(conn, options=_DEAD)
        await fail_jobs(conn, [sample_failure(job, None)])
    async with database.transaction() as conn:
        await retry_job(conn, "acme", job.claim.id, 1)
        await fail_jobs(conn, [sample_failure(await _claim(conn, "reports:generate"), None)])

        assert [row["parent_job_id"] for row in await _letters(conn)] == [job.claim.id] * 2


async def test_a_dead_letter_comes_and_goes_with_the_failure(database: Database) -> None:
    async with database.transaction() as conn:
        job = await _run(conn, options=_DEAD)
    async with database.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await fail_jobs(conn, [sample_failure(job, None)])
        await transaction.rollback()

    async with database.connection() as conn:
        assert await _letters(conn) == []
        assert await conn.fetchval("SELECT status FROM jobs") == "processing"
