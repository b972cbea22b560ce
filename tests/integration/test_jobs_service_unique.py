"""What CreateJob and BatchCreateJobs answer to unique keys, and to all else a job may ask for."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from millrace.jobs.v1 import job_options_pb2, jobs_service_pb2
from millrace_database.database import Database
from millrace_runtime.struct_json import dict_to_struct, timestamp_to_datetime
from support.jobs_api import (
    ANY_TYPE,
    TYPE,
    JobsApi,
    claim,
    detail,
    refusal,
    refused_fields,
    serving,
    start_worker,
    status_of,
    violations,
)
from support.unique_jobs import counts

_Unique = job_options_pb2.Uniqueness
_Concurrency = job_options_pb2.Concurrency
_Retry = job_options_pb2.RetryPolicy
_REPLACE = job_options_pb2.UNIQUE_CONFLICT_REPLACE
_RETURN = job_options_pb2.UNIQUE_CONFLICT_RETURN_EXISTING
_DAY = 24 * 60 * 60


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


def _request(**fields: Any) -> jobs_service_pb2.CreateJobRequest:
    return jobs_service_pb2.CreateJobRequest(**{"org_id": "acme", "type": ANY_TYPE, **fields})


async def _batch(
    api: JobsApi, *requests: jobs_service_pb2.CreateJobRequest, return_jobs: bool = False
) -> list[jobs_service_pb2.BatchCreateJobsResult]:
    request = jobs_service_pb2.BatchCreateJobsRequest(
        org_id="acme", requests=requests, return_jobs=return_jobs
    )
    return list((await api.jobs.BatchCreateJobs(request)).results)


def _named(error: grpc.aio.AioRpcError) -> str:
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    resource = detail(status_of(error), error_details_pb2.ResourceInfo)
    assert resource.resource_type == "job"
    return resource.resource_name


async def test_a_taken_key_is_refused_and_its_job_named(api: JobsApi, database: Database) -> None:
    first = await api.create(unique=_Unique(key="k"))

    assert _named(await refusal(api.create(unique=_Unique(key="k")))) == first.job_id
    async with database.connection() as conn:
        assert await counts(conn) == (1, 1)


async def test_the_job_that_has_the_key_is_returned(api: JobsApi, database: Database) -> None:
    first = await api.create(unique=_Unique(key="k"), input_json=b'{"n": 1}')
    await claim(database, await start_worker(database))

    response = await api.jobs.CreateJob(
        _request(unique=_Unique(key="k", on_conflict=_RETURN), input_json=b'{"n": 2}')
    )

    assert (response.already_existed, response.replaced) == (True, False)
    assert response.job == await api.get(first.job_id)
    assert response.job.input["n"] == 1


async def test_a_waiting_job_is_replaced(api: JobsApi) -> None:
    waiting = _Unique(key="k", states=job_options_pb2.UNIQUE_STATES_WAITING, on_conflict=_REPLACE)
    first = await api.jobs.CreateJob(_request(unique=waiting, input_json=b'{"n": 1}'))
    assert (first.already_existed, first.replaced) == (False, False)

    second = await api.jobs.CreateJob(
        _request(
            unique=waiting, input_json=b'{"n": 2}', delay=Duration(seconds=3600), timeout=Duration(seconds=5)
        )
    )

    assert (second.already_existed, second.replaced) == (False, True)
    assert second.job.job_id == first.job.job_id
    assert (second.job.input["n"], second.job.timeout.seconds) == (2, 5)
    assert second.job == await api.get(first.job.job_id)


async def test_those_who_watch_see_a_replacement(api: JobsApi) -> None:
    unique = _Unique(key="k", on_conflict=_REPLACE)
    first = await api.create(unique=unique, input_json=b'{"n": 1}')
    watching = api.jobs.WatchJob(jobs_service_pb2.WatchJobRequest(org_id="acme", job_id=first.job_id))
    seen = aiter(watching)
    assert (await anext(seen)).job.input["n"] == 1

    await api.create(unique=unique, input_json=b'{"n": 2}')

    assert (await asyncio.wait_for(anext(seen), 20)).job.input["n"] == 2
    watching.cancel()


async def test_a_started_job_is_not_replaced(api: JobsApi, database: Database) -> None:
    first = await api.create(unique=_Unique(key="k"))
    await claim(database, await start_worker(database))

    assert _named(await refusal(api.create(unique=_Unique(key="k", on_conflict=_REPLACE)))) == first.job_id


async def test_a_throttled_key_names_the_job_it_let_in(api: JobsApi) -> None:
    throttle = _Unique(key="k", window=Duration(seconds=60))
    first = await api.create(unique=throttle)
    await api.jobs.CancelJob(jobs_service_pb2.CancelJobRequest(org_id="acme", job_id=first.job_id))

    refused = await refusal(api.create(unique=throttle))
    assert _named(refused) == first.job_id
    ends_at = timestamp_to_datetime(first.created_at) + timedelta(seconds=60)
    said = re.fullmatch(
        "the unique key let this job in, and lets in no other before (.+) UTC", refused.details() or ""
    )
    assert said is not None
    assert abs(datetime.fromisoformat(f"{said[1]}+00:00") - ends_at) < timedelta(seconds=1)
    throttle.on_conflict = _RETURN
    response = await api.jobs.CreateJob(_request(unique=throttle))
    assert (response.already_existed, response.job.job_id) == (True, first.job_id)


async def test_a_repeated_request_is_answered_with_its_own_job(api: JobsApi) -> None:
    first = await api.create(unique=_Unique(key="k"), request_id="r")

    again = await api.jobs.CreateJob(_request(unique=_Unique(key="k"), request_id="r"))

    assert (again.job.job_id, again.already_existed) == (first.job_id, True)


async def test_each_item_of_a_batch_has_its_own_answer(api: JobsApi) -> None:
    held = await api.create(unique=_Unique(key="held"), input_json=b'{"n": 1}')

    results = await _batch(
        api,
        _request(unique=_Unique(key="new")),
        _request(unique=_Unique(key="held")),
        _request(unique=_Unique(key="held", on_conflict=_RETURN)),
        _request(unique=_Unique(key="held", on_conflict=_REPLACE), input_json=b'{"n": 2}'),
        _request(unique=_Unique(key="")),
        return_jobs=True,
    )

    created, refused, returned, replaced, wrong = results
    assert (created.already_existed, created.job.job_id) == (False, created.job_id)
    assert detail(refused.error, error_details_pb2.ResourceInfo).resource_name == held.job_id
    assert (returned.already_existed, returned.job_id) == (True, held.job_id)
    assert (replaced.already_existed, replaced.replaced, replaced.job_id) == (False, True, held.job_id)
    assert replaced.job.input["n"] == 2
    assert violations(wrong.error) == {"unique.key": "is required"}


async def test_many_calls_at_once_with_one_key_make_one_job(api: JobsApi, database: Database) -> None:
    responses = await asyncio.gather(
        *(api.jobs.CreateJob(_request(unique=_Unique(key="k", on_conflict=_RETURN))) for _ in range(40))
    )

    assert len({response.job.job_id for response in responses}) == 1
    assert [response.already_existed for response in responses].count(False) == 1
    async with database.connection() as conn:
        assert await counts(conn) == (1, 1)


async def test_a_request_id_that_another_job_just_got_does_not_break_a_replacement(
    api: JobsApi, database: Database
) -> None:
    """Only misuse can do this: the same request id for two keys at the same time."""
    await api.create(unique=_Unique(key="k"))

    async def call(number: int) -> str:
        key = "k" if number % 2 else f"other-{number}"
        request = _request(unique=_Unique(key=key, on_conflict=_REPLACE), request_id=f"r{number // 2}")
        return (await api.jobs.CreateJob(request)).job.job_id

    assert all(await asyncio.gather(*(call(number) for number in range(60))))
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT count(*) = count(DISTINCT job_id) FROM jobs")


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"unique": _Unique()}, {"unique.key": "is required"}),
        ({"unique": _Unique(key="k" * 257)}, {"unique.key": "is 257 characters long, more than 256"}),
        (
            {"unique": _Unique(key="a\0b")},
            {"unique.key": "holds the character U+0000, which cannot be stored"},
        ),
        ({"unique": _Unique(key="k", scope=9)}, {"unique.scope": "has a value that is not known"}),  # type: ignore[arg-type]
        ({"unique": _Unique(key="k", states=9)}, {"unique.states": "has a value that is not known"}),  # type: ignore[arg-type]
        (
            {"unique": _Unique(key="k", window=Duration(nanos=999_999_999))},
            {"unique.window": "must be 1 s to 30 days"},
        ),
        (
            {"unique": _Unique(key="k", window=Duration(seconds=9), states=1)},  # type: ignore[arg-type]
            {"unique.states": "may not be set together with window"},
        ),
        (
            {"unique": _Unique(key="k", window=Duration(seconds=9), on_conflict=_REPLACE)},
            {"unique.on_conflict": "may not be REPLACE together with window"},
        ),
        (
            {"unique": _Unique(key="k", states=2, scope=2)},  # type: ignore[arg-type]
            {"unique.scope": "must be ORGANISATION_AND_TYPE with these states"},
        ),
        (
            {"unique": _Unique(key="k", states=2, on_conflict=_RETURN)},  # type: ignore[arg-type]
            {"unique.on_conflict": "may not be set with states RUNNING, as any number may wait"},
        ),
        (
            {"unique": _Unique(key="k", states=4), "concurrency": _Concurrency(key="c")},  # type: ignore[arg-type]
            {"concurrency": "may not be set with these unique.states, which let one job run at once"},
        ),
        ({"concurrency": _Concurrency(limit=1)}, {"concurrency.key": "is required"}),
        (
            {"concurrency": _Concurrency(key="millrace:unique:x")},
            {"concurrency.key": "must not begin with 'millrace:'"},
        ),
        ({"concurrency": _Concurrency(key="c", limit=1001)}, {"concurrency.limit": "must be 0 to 1000"}),
        (
            {"concurrency": _Concurrency(key="c", limit=2, order=1)},  # type: ignore[arg-type]
            {"concurrency.limit": "must be 1 with an order"},
        ),
        ({"delay": Duration(seconds=-1)}, {"delay": "must be 0 s to 3650 days"}),
        ({"delay": Duration(seconds=3651 * _DAY)}, {"delay": "must be 0 s to 3650 days"}),
        (
            {"delay": Duration(seconds=1), "run_at": Timestamp(seconds=4_000_000_000)},
            {"delay": "may not be set together with run_at"},
        ),
        (
            {"deadline": Timestamp(seconds=4_000_000_000), "run_at": Timestamp(seconds=4_000_000_000)},
            {"deadline": "must be later than run_at"},
        ),
        ({"timeout": Duration()}, {"timeout": "must be more than 0 s"}),
        ({"timeout": Duration(seconds=7 * _DAY, nanos=1000)}, {"timeout": "must be 0 s to 7 days"}),
        (
            {
                "retry_policy": _Retry(
                    initial_delay=Duration(seconds=8 * _DAY), max_delay=Duration(seconds=-1)
                )
            },
            {
                "retry_policy.initial_delay": "must be 0 s to 7 days",
                "retry_policy.max_delay": "must be 0 s to 30 days",
            },
        ),
        (
            {"retry_policy": _Retry(factor=0.5, jitter=1.5)},
            {"retry_policy.factor": "must be 1 to 10", "retry_policy.jitter": "must be 0 to 1"},
        ),
        (
            {"retry_policy": _Retry(factor=float("nan"), jitter=float("nan"))},
            {"retry_policy.factor": "must be 1 to 10", "retry_policy.jitter": "must be 0 to 1"},
        ),
        (
            {"retry_policy": _Retry(factor=3, backoff=job_options_pb2.BACKOFF_LINEAR)},
            {"retry_policy.factor": "is only for exponential backoff"},
        ),
        (
            {"retry_policy": _Retry(initial_delay=Duration(seconds=61), max_delay=Duration(seconds=60))},
            {"retry_policy.initial_delay": "must not be longer than max_delay"},
        ),
        (
            {"dead_letter_type": "nobody:knows"},
            {"dead_letter_type": "'nobody:knows' is no job type that a worker has published"},
        ),
    ],
)
async def test_what_is_wrong_is_named(
    api: JobsApi, database: Database, fields: dict[str, Any], refused: dict[str, str]
) -> None:
    assert await refused_fields(api.create(**fields)) == refused
    async with database.connection() as conn:
        assert await counts(conn) == (0, 0)


async def test_all_that_a_job_asks_for_is_kept(api: JobsApi) -> None:
    asked: dict[str, Any] = {
        "deadline": Timestamp(seconds=4_000_000_000),
        "timeout": Duration(seconds=90, nanos=500_000_000),
        "retry_policy": _Retry(
            backoff=job_options_pb2.BACKOFF_EXPONENTIAL,
            initial_delay=Duration(seconds=2),
            max_delay=Duration(seconds=600),
            factor=3,
            jitter=0.0,
        ),
        "unique": _Unique(
            key="k",
            scope=job_options_pb2.UNIQUE_SCOPE_ORGANISATION,
            states=job_options_pb2.UNIQUE_STATES_WAITING,
            on_conflict=_RETURN,
        ),
        "concurrency": _Concurrency(key="c", limit=3),
        "dead_letter_type": TYPE,
    }

    job = await api.create(**asked)

    assert {field: getattr(job, field) for field in asked} == asked
    assert await api.get(job.job_id) == job


async def test_a_delay_counts_from_the_creation(api: JobsApi) -> None:
    job = await api.create(delay=Duration(seconds=3600))

    assert job.run_at.ToDatetime() - job.created_at.ToDatetime() == timedelta(hours=1)


async def test_a_trial_checks_everything_and_creates_nothing(api: JobsApi, database: Database) -> None:
    await api.create(unique=_Unique(key="k"))
    run_at = Timestamp()
    run_at.FromDatetime(datetime(2100, 1, 1, tzinfo=UTC))

    response = await api.jobs.CreateJob(
        _request(
            validate_only=True,
            type=TYPE,
            input=dict_to_struct({"file_id": "f"}),
            run_at=run_at,
            unique=_Unique(key="other"),
        )
    )

    job = response.job
    assert (job.job_id, job.type, job.max_attempts, job.run_at) == ("", TYPE, 4, run_at)
    assert not job.HasField("created_at")
    assert dict(job.input.items()) == {"file_id": "f"}
    assert await refused_fields(api.create(validate_only=True, type=TYPE, priority=101)) == {
        "input.file_id": "is required",
        "priority": "must be -100 to 100",
    }
    async with database.connection() as conn:
        assert await counts(conn) == (1, 1)
        assert await conn.fetchval("SELECT count(*) FROM queue_throttles") == 0


async def test_a_batch_is_a_trial_only_as_a_whole(api: JobsApi, database: Database) -> None:
    mixed = await _batch(api, _request(), _request(validate_only=True))
    assert mixed[0].job_id
    assert violations(mixed[1].error) == {
        "validate_only": "must be set for all jobs of the batch, or for none"
    }

    trial = await _batch(
        api,
        _request(validate_only=True, input_json=b'{"n": 1}'),
        _request(validate_only=True, type="nobody:knows"),
        return_jobs=True,
    )

    assert (trial[0].job_id, trial[0].job.job_id, trial[0].job.input["n"]) == ("", "", 1)
    assert violations(trial[1].error).keys() == {"type"}
    async with database.connection() as conn:
        assert await counts(conn) == (1, 1)
