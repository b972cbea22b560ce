import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from millrace.jobs.v1 import job_pb2
from millrace_database.database import Database
from millrace_database.deliveries import DELIVERY_TYPES
from millrace_database.job_options import JobOptions
from millrace_queue import CHANNEL_READY
from millrace_runtime.struct_json import dict_to_struct
from support.jobs_api import (
    ANY_TYPE,
    MAX_ATTEMPTS,
    TYPE,
    JobsApi,
    detail,
    publish,
    refusal,
    refused_fields,
    serving,
    status_of,
    violations,
)
from support.polling import eventually

_END_THOSE_WHO_WAIT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def test_a_created_job_is_returned_pending(api: JobsApi) -> None:
    job = await api.create(type=TYPE, input=dict_to_struct({"file_id": "file_1", "rows": [{"id": 1}]}))

    assert job.status == job_pb2.JOB_STATUS_PENDING
    assert job.job_id.startswith("job_")
    assert (job.org_id, job.type, job.created_by) == ("acme", TYPE, "anonymous")
    assert dict(job.input.items()) == {"file_id": "file_1", "rows": job.input["rows"]}
    assert (job.attempt, job.max_attempts, job.priority) == (0, MAX_ATTEMPTS, 0)
    assert job.created_at == job.run_at
    assert not job.HasField("started_at")
    assert not job.HasField("output")
    assert await api.get(job.job_id) == job


async def test_a_created_job_is_returned_as_it_is_read_afterwards(api: JobsApi) -> None:
    run_at = Timestamp(seconds=4_000_000_000, nanos=123_456_000)
    plain = await api.create(request_id="r-1")
    full = await api.create(
        input_json=b'{"b": 1, "a": {"n": 12345678901234567890, "f": 1.0, "t": "\\u00e9"}, "b": [2, null, true]}',
        metadata={"z": 1, "a": [False]},
        run_at=run_at,
        priority=7,
        max_attempts=9,
        created_by="ann",
        schedule_id=f"schedule_{'1' * 32}",
    )

    assert plain == await api.get(plain.job_id)
    assert full == await api.get(full.job_id)
    assert full.run_at == run_at


async def test_all_that_a_request_names_is_kept(api: JobsApi) -> None:
    run_at = Timestamp(seconds=4_000_000_000, nanos=5000)
    schedule_id = "schedule_" + "0" * 31 + "1"
    job = await api.create(
        metadata=dict_to_struct({"team": "billing"}),
        run_at=run_at,
        priority=-7,
        max_attempts=9,
        created_by="ann",
        schedule_id=schedule_id,
    )

    assert dict(job.metadata.items()) == {"team": "billing"}
    assert (job.run_at, job.priority, job.max_attempts) == (run_at, -7, 9)
    assert (job.created_by, job.schedule_id) == ("ann", schedule_id)
    assert dict(job.input.items()) == {}


@pytest.mark.parametrize("named", [0, MAX_ATTEMPTS])
async def test_whether_the_number_of_attempts_was_named_is_kept(
    api: JobsApi, database: Database, named: int
) -> None:
    job = await api.create(max_attempts=named)

    async with database.connection() as connection:
        options = JobOptions.from_json(await connection.fetchval("SELECT options::text FROM jobs"))
    assert job.max_attempts == MAX_ATTEMPTS
    assert options == JobOptions(names_attempts=bool(named))


async def test_input_json_keeps_the_digits_of_its_numbers(api: JobsApi, database: Database) -> None:
    await api.create(input_json=b'{"amount": 12345678901234567890.123456789, "count": 9007199254740993}')

    async with database.connection() as connection:
        stored = await connection.fetchval("SELECT input::text FROM jobs")
    assert stored == '{"count": 9007199254740993, "amount": 12345678901234567890.123456789}'


async def test_input_json_is_held_against_the_schema_too(api: JobsApi) -> None:
    await api.create(type=TYPE, input_json=b'{"file_id": "file_1", "limit": null}')

    fields = await refused_fields(api.create(type=TYPE, input_json=b'{"file_id": 5, "limit": 1001}'))

    assert fields == {
        "input.file_id": "must be string",
        "input.limit": "is greater than the maximum of 1000",
    }


async def test_each_place_that_breaks_the_schema_is_named(api: JobsApi) -> None:
    given = dict_to_struct({"limit": "many", "rows": [{"id": 1}, {}]})

    fields = await refused_fields(api.create(type=TYPE, input=given))

    assert fields == {
        "input.file_id": "is required",
        "input.limit": "must be integer or null",
        "input.rows[1].id": "is required",
    }


async def test_everything_that_is_wrong_is_said_at_once(api: JobsApi) -> None:
    fields = await refused_fields(
        api.create(
            type="nobody:knows",
            input_json=b"[]",
            metadata=dict_to_struct({"text": "x" * 20_000}),
            request_id="r" * 129,
            run_at=Timestamp(seconds=1, nanos=-1),
            priority=101,
            max_attempts=-1,
            created_by="c" * 257,
            schedule_id="schedule",
        )
    )

    assert fields.keys() == {
        "type",
        "input_json",
        "metadata",
        "request_id",
        "run_at",
        "priority",
        "max_attempts",
        "created_by",
        "schedule_id",
    }


async def test_a_type_is_accepted_as_soon_as_it_is_published(api: JobsApi, database: Database) -> None:
    assert "type" in await refused_fields(api.create(type="brand:new"))

    await publish(database, "brand:new", {"type": "object"})

    assert (await api.create(type="brand:new")).type == "brand:new"


@pytest.mark.parametrize("type_", sorted(DELIVERY_TYPES))
async def test_deliveries_are_created_by_no_caller(api: JobsApi, database: Database, type_: str) -> None:
    await publish(database, type_, {"type": "object"})

    said = f"{type_!r} is for deliveries, which are made by the system only"
    assert await refused_fields(api.create(type=type_)) == {"type": said}
    assert await refused_fields(api.create(dead_letter_type=type_)) == {"dead_letter_type": said}


async def test_a_changed_schema_counts_within_seconds(api: JobsApi, database: Database) -> None:
    await api.create()
    await publish(database, ANY_TYPE, {"type": "object", "required": ["text"]})

    async def refusal_of_an_input_without_text() -> dict[str, str] | None:
        try:
            await api.create()
        except grpc.aio.AioRpcError as error:
            return violations(status_of(error))
        return None

    fields = await eventually(refusal_of_an_input_without_text)

    assert fields == {"input.text": "is required"}


async def test_a_type_whose_schema_cannot_be_used_is_refused(api: JobsApi, database: Database) -> None:
    await publish(database, "bad:schema", {"$ref": "https://schemas.example/unreachable.json"})

    fields = await refused_fields(api.create(type="bad:schema"))

    assert fields == {"type": "was published with an input schema that cannot be used"}


async def test_a_repeated_request_returns_the_first_job(api: JobsApi, database: Database) -> None:
    first = await api.create(input_json=b'{"a": 1.0}', request_id="r-1", priority=1)
    again = await api.create(input_json=b'{ "a" : 1.0 }', request_id="r-1", priority=2)

    assert again == first
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM queue") == 1


async def test_a_request_id_belongs_to_one_organisation(api: JobsApi) -> None:
    ours = await api.create(request_id="r-1")
    theirs = await api.create(org_id="other", request_id="r-1")

    assert ours.job_id != theirs.job_id


@pytest.mark.parametrize(
    "change", [{"input_json": b'{"a": 2}'}, {"type": TYPE, "input_json": b'{"file_id": "a"}'}]
)
async def test_a_request_id_used_for_something_else_names_the_existing_job(
    api: JobsApi, change: dict[str, object]
) -> None:
    first = await api.create(input_json=b'{"a": 1}', request_id="r-1")

    error = await refusal(api.create(**{"request_id": "r-1", **change}))

    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    resource = detail(status_of(error), error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("job", first.job_id)


async def test_concurrent_calls_with_one_request_id_create_one_job(api: JobsApi, database: Database) -> None:
    jobs = await asyncio.gather(*(api.create(request_id="r-1") for _ in range(40)))

    assert len({job.job_id for job in jobs}) == 1
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 1
        assert await connection.fetchval("SELECT count(*) FROM queue") == 1


async def test_concurrent_calls_get_each_their_own_job(api: JobsApi) -> None:
    jobs = await asyncio.gather(
        *(api.create(input=dict_to_struct({"number": number}), priority=number) for number in range(100))
    )

    assert len({job.job_id for job in jobs}) == 100
    assert [job.input["number"] for job in jobs] == list(range(100))
    assert [job.priority for job in jobs] == list(range(100))


async def test_a_conflict_does_not_harm_calls_made_at_the_same_time(api: JobsApi) -> None:
    await api.create(input_json=b'{"a": 1}', request_id="r-1")

    results = await asyncio.gather(
        *(api.create(input_json=b'{"a": 2}', request_id="r-1" if n % 2 else "") for n in range(20)),
        return_exceptions=True,
    )

    for number, result in enumerate(results):
        if number % 2:
            assert isinstance(result, grpc.aio.AioRpcError)
            assert result.code() is grpc.StatusCode.ALREADY_EXISTS
        else:
            assert isinstance(result, job_pb2.Job)


async def test_workers_are_told_of_a_job_once_it_is_committed(api: JobsApi, database: Database) -> None:
    hints: asyncio.Queue[str] = asyncio.Queue()
    listening = await database.direct_connection()
    try:
        await listening.add_listener(CHANNEL_READY, lambda *hint: hints.put_nowait(hint[-1]))
        job = await api.create()
        async with asyncio.timeout(10):
            assert await hints.get() == job.type
    finally:
        await listening.close()


async def test_an_unreachable_database_is_unavailable_and_says_when_to_retry(
    api: JobsApi, database: Database
) -> None:
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE jobs")
        call = asyncio.create_task(refusal(api.create()))
        async with database.connection() as other:
            await eventually(lambda: other.fetchval(_END_THOSE_WHO_WAIT))
        error = await call

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(status_of(error), error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds() > 0
