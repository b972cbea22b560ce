from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import millrace_queue
from millrace_database import Database, job_types_repository, workers_repository
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import NewJob, claim_jobs, create_jobs
from millrace_database.job_types_repository import PublishedType
from millrace_database.workers_repository import WorkerDetails

LEASE = timedelta(seconds=30)
IMPORT = PublishedType(
    type="imports:load",
    label="Load a file",
    description="Loads rows.",
    input_schema_json='{"type": "object"}',
    max_attempts=4,
    timeout=timedelta(hours=1),
    concurrency=2,
)
REPORT = replace(IMPORT, type="reports:generate", label="Report")


async def _register(database: Database, *types: str, lease: timedelta = LEASE) -> UUID:
    worker_id = new_id()
    details = WorkerDetails(name="host:1", address="127.0.0.1:50053", types=types, slots=7)
    async with database.connection() as connection:
        await millrace_queue.register_worker(connection, worker_id, lease=lease, details=details.as_json())
    return worker_id


async def _lose(database: Database, worker_id: UUID) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE queue_workers SET heartbeat_at = now() - lease - interval '1 s' WHERE worker_id = $1",
            worker_id,
        )


async def test_types_are_published_replaced_and_listed_by_name(database: Database) -> None:
    async with database.connection() as connection:
        await job_types_repository.publish_job_types(connection, [REPORT, IMPORT])
        first = await job_types_repository.list_job_types(connection, None, 1)
        rest = await job_types_repository.list_job_types(connection, first[-1].type, 10)
        assert [record.type for record in first + rest] == ["imports:load", "reports:generate"]
        assert first[0].timeout == timedelta(hours=1)
        assert first[0].input_schema_json == '{"type": "object"}'

        await job_types_repository.publish_job_types(connection, [replace(IMPORT, max_attempts=9)])
        found = await job_types_repository.get_job_types(connection, ["imports:load", "none:such"])
        assert {name: record.max_attempts for name, record in found.items()} == {"imports:load": 9}
        assert await job_types_repository.get_job_type(connection, "none:such") is None


async def test_publishing_the_same_again_writes_nothing(database: Database) -> None:
    async with database.connection() as connection:
        rows = "SELECT array_agg(xmin::text || ctid::text ORDER BY type) FROM job_types"
        await job_types_repository.publish_job_types(connection, [IMPORT, REPORT])
        before = await connection.fetchval(rows)
        await job_types_repository.publish_job_types(connection, [REPORT, IMPORT])
        assert await connection.fetchval(rows) == before
        await job_types_repository.publish_job_types(connection, [replace(REPORT, label="Else"), IMPORT])
        assert await connection.fetchval(rows) != before


async def test_only_live_workers_that_take_the_type_are_counted(database: Database) -> None:
    await _register(database, "imports:load", "reports:generate")
    await _register(database, "imports:load")
    lost = await _register(database, "imports:load")
    draining = await _register(database, "imports:load")
    await _lose(database, lost)
    async with database.connection() as connection:
        await job_types_repository.publish_job_types(connection, [IMPORT, REPORT])
        await millrace_queue.heartbeat(connection, draining, draining=True)
        records = await job_types_repository.list_job_types(connection, None, 10)
    assert [(record.type, record.active_workers) for record in records] == [
        ("imports:load", 2),
        ("reports:generate", 1),
    ]


async def test_workers_are_listed_in_the_order_of_their_start(database: Database) -> None:
    active = await _register(database, "b:two", "a:one")
    lost = await _register(database)
    draining = await _register(database)
    await _lose(database, lost)
    async with database.transaction() as connection:
        await millrace_queue.heartbeat(connection, draining, draining=True)
        await create_jobs(
            connection,
            [
                NewJob(
                    job_id=new_id(),
                    org_id="acme",
                    type="a:one",
                    input_json="{}",
                    metadata_json="{}",
                    created_by="",
                    max_attempts=1,
                )
                for _ in range(3)
            ],
        )
        assert len(await claim_jobs(connection, active, {"a:one": 2}, 2)) == 2
    async with database.connection() as connection:
        page = await workers_repository.list_workers(connection, None, 2)
        rest = await workers_repository.list_workers(connection, page[-1].worker_id, 2)
    assert [(record.worker_id, record.state, record.running_jobs) for record in page + rest] == [
        (active, "active", 2),
        (lost, "lost", 0),
        (draining, "draining", 0),
    ]
    assert page[0].types == ["a:one", "b:two"]
    assert (page[0].name, page[0].address, page[0].slots) == ("host:1", "127.0.0.1:50053", 7)


async def test_a_worker_that_said_nothing_of_itself_is_listed_too(database: Database) -> None:
    worker_id = new_id()
    async with database.connection() as connection:
        await millrace_queue.register_worker(connection, worker_id, lease=LEASE, details={})
        [record] = await workers_repository.list_workers(connection, None, 10)
    assert (record.worker_id, record.name, record.types, record.slots) == (worker_id, "", [], 0)
