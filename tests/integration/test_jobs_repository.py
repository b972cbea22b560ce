from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import complete_jobs
from millrace_database.jobs_repository import JobFilters, JobRecord, get_job, get_jobs_changed, list_jobs
from support.queue_samples import claimed_jobs, created_jobs, new_worker, sample_job

_DAY = timedelta(days=1)


async def _listed(
    database: Database, *, after: UUID | None = None, limit: int = 100, **filters: Any
) -> list[UUID]:
    async with database.session() as session:
        jobs = await list_jobs(session, JobFilters(**{"org_id": "acme", **filters}), after, limit)
    return [job.job_id for job in jobs]


async def _set_status(database: Database, status: str, ids: Sequence[UUID]) -> None:
    async with database.connection() as conn:
        await conn.execute(
            "UPDATE jobs SET status = $1, completed_at = CASE WHEN $1 IN ('failed', 'completed') THEN now() END"
            " WHERE job_id = ANY ($2::uuid[])",
            status,
            ids,
        )


async def _created_at(database: Database, age: timedelta) -> UUID:
    """A job that was created so long ago, and has an id of that time."""
    now = datetime.now(UTC)
    milliseconds = int((now - age).timestamp() * 1000)
    job_id = UUID(int=(milliseconds << 80) | (new_id().int & (2**80 - 1)))
    await created_jobs(database, sample_job(job_id=job_id))
    async with database.connection() as conn:
        await conn.execute("UPDATE jobs SET created_at = $2 WHERE job_id = $1", job_id, now - age)
    return job_id


async def test_a_job_is_found_in_its_own_organisation_only(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.connection() as conn:
        found = await get_job(conn, "acme", job_id)
        assert found is not None
        assert found.job_id == job_id
        assert await get_job(conn, None, job_id) is not None
        assert await get_job(conn, "umbrella", job_id) is None
        assert await get_job(conn, "acme", new_id()) is None


async def test_a_job_reads_the_same_in_each_way(database: Database) -> None:
    job = sample_job(metadata_json='{"a": [1, null]}', schedule_id=new_id(), request_id="r", priority=3)
    await created_jobs(database, job)
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
    (claimed,) = await claimed_jobs(database, worker_id)
    async with database.transaction() as conn:
        await complete_jobs(conn, [(claimed.lease, '{"pages": [1, 2]}')])

    async with database.session() as session:
        (listed,) = await list_jobs(session, JobFilters("acme"), None, 10)
    async with database.connection() as conn:
        (changed,) = await get_jobs_changed(conn, {job.job_id: 0})
        got = await get_job(conn, "acme", job.job_id)

    def without_read_at(record: JobRecord | None) -> dict[str, Any]:
        assert record is not None
        return {name: getattr(record, name) for name in JobRecord.__slots__ if name != "read_at"}

    assert without_read_at(listed) == without_read_at(changed) == without_read_at(got)
    assert (listed.output_json, listed.metadata_json) == ('{"pages": [1, 2]}', '{"a": [1, null]}')
    assert (listed.schedule_id, listed.request_id) == (job.schedule_id, "r")
    assert listed.read_at.tzinfo is not None


async def test_only_changed_jobs_are_returned_to_their_watchers(database: Database) -> None:
    ids = await created_jobs(database, *(sample_job() for _ in range(3)))
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        assert await get_jobs_changed(conn, dict.fromkeys(ids, 1)) == []
        assert await get_jobs_changed(conn, {}) == []
        await claimed_jobs(database, worker_id)

        changed = await get_jobs_changed(conn, {ids[0]: 1, ids[1]: 2, new_id(): 0})

    assert [(job.job_id, job.status, job.version) for job in changed] == [(ids[0], "processing", 2)]


async def test_lists_the_newest_first_page_by_page(database: Database) -> None:
    ids = await created_jobs(database, *(sample_job() for _ in range(7)))
    await created_jobs(database, sample_job(org_id="umbrella"))

    first = await _listed(database, limit=3)
    await created_jobs(database, sample_job())
    second = await _listed(database, after=first[-1], limit=3)
    third = await _listed(database, after=second[-1], limit=3)

    assert first + second + third == sorted(ids, reverse=True)
    assert await _listed(database, after=third[-1], limit=3) == []


async def test_lists_all_organisations(database: Database) -> None:
    ids = await created_jobs(database, sample_job(), sample_job(org_id="umbrella"))

    assert await _listed(database, org_id=None) == sorted(ids, reverse=True)
    assert await _listed(database, org_id="umbrella") == [ids[1]]


async def test_filters_by_any_of_several_statuses_and_types(database: Database) -> None:
    ids = await created_jobs(
        database, *(sample_job(type=type_) for _ in range(4) for type_ in ("a", "b", "c"))
    )
    await _set_status(database, "failed", ids[:3])
    await _set_status(database, "completed", ids[3:6])
    newest_first = sorted(ids, reverse=True)
    by_type = {type_: set(ids[place::3]) for place, type_ in enumerate("abc")}

    def those(*wanted: set[UUID]) -> list[UUID]:
        return [id_ for id_ in newest_first if all(id_ in group for group in wanted)]

    unpending = set(ids[:6])
    assert await _listed(database, statuses=["failed"]) == those(set(ids[:3]))
    assert await _listed(database, statuses=["failed", "completed", "failed"]) == those(unpending)
    assert await _listed(database, types=["b"]) == those(by_type["b"])
    assert await _listed(database, types=["a", "c"]) == those(by_type["a"] | by_type["c"])
    assert await _listed(database, statuses=["failed"], types=["a", "b"]) == those(
        set(ids[:3]), by_type["a"] | by_type["b"]
    )
    assert await _listed(database, statuses=["failed", "completed"], types=["a"]) == those(
        unpending, by_type["a"]
    )
    assert await _listed(database, statuses=["failed", "completed"], types=["a", "b"], org_id=None) == those(
        unpending, by_type["a"] | by_type["b"]
    )
    page = await _listed(database, statuses=["failed", "completed"], limit=2)
    assert page == those(unpending)[:2]
    assert await _listed(database, statuses=["failed", "completed"], after=page[-1]) == those(unpending)[2:]
    assert await _listed(database, statuses=["cancelled"]) == []


async def test_filters_by_creator_and_schedule(database: Database) -> None:
    schedule_id = new_id()
    ids = await created_jobs(
        database,
        sample_job(created_by="bob"),
        sample_job(schedule_id=schedule_id),
        sample_job(created_by="bob"),
    )

    assert await _listed(database, created_by="bob") == [ids[2], ids[0]]
    assert await _listed(database, schedule_id=schedule_id) == [ids[1]]
    assert await _listed(database, schedule_id=schedule_id, created_by="bob") == []
    assert await _listed(database, schedule_id=schedule_id, org_id="umbrella") == []


async def test_filters_by_time_of_creation(database: Database) -> None:
    ages = [timedelta(days=10), timedelta(days=3), timedelta(minutes=5)]
    old, recent, new = [await _created_at(database, age) for age in ages]
    now = datetime.now(UTC)

    assert await _listed(database, created_after=now - 4 * _DAY) == [new, recent]
    assert await _listed(database, created_before=now - 2 * _DAY) == [recent, old]
    assert await _listed(database, created_after=now - 4 * _DAY, created_before=now - 2 * _DAY) == [recent]
    assert await _listed(database, created_after=now - timedelta(minutes=10)) == [new]
    assert await _listed(database, created_before=now - timedelta(minutes=4)) == [new, recent, old]
    assert await _listed(database, created_after=datetime.min.replace(tzinfo=UTC)) == [new, recent, old]
    assert await _listed(database, created_before=datetime.max.replace(tzinfo=UTC)) == [new, recent, old]


async def test_a_time_bound_includes_its_beginning_and_not_its_end(database: Database) -> None:
    (job_id,) = await created_jobs(database, sample_job())
    async with database.connection() as conn:
        job = await get_job(conn, "acme", job_id)
    assert job is not None

    assert await _listed(database, created_after=job.created_at) == [job_id]
    assert await _listed(database, created_before=job.created_at) == []


async def test_the_clock_of_the_service_that_made_the_id_may_differ(database: Database) -> None:
    job_id = await _created_at(database, timedelta(minutes=50))
    async with database.connection() as conn:
        await conn.execute("UPDATE jobs SET created_at = now()")

    assert await _listed(database, created_after=datetime.now(UTC) - timedelta(minutes=1)) == [job_id]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ('{"colour": "red"}', [0, 1]),
        ('{"colour": "red", "size": {"w": 1}}', [1]),
        ('{"size": {"h": 2}}', [1]),
        ('{"colour": "blue"}', []),
        ('{"tags": ["b"]}', [2]),
        ("{}", [0, 1, 2, 3]),
    ],
)
async def test_filters_by_labels(database: Database, labels: str, found: list[int]) -> None:
    ids = await created_jobs(
        database,
        sample_job(metadata_json='{"colour": "red"}'),
        sample_job(metadata_json='{"colour": "red", "size": {"w": 1, "h": 2}}'),
        sample_job(metadata_json='{"tags": ["a", "b"]}'),
        sample_job(),
    )

    assert await _listed(database, metadata_json=labels) == [ids[place] for place in reversed(found)]
