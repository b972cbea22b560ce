"""What operators set: pauses and limits of types, and of organisations; and how they see the queue."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from millrace.jobs.v1 import job_options_pb2, job_pb2, jobs_service_pb2, limits_pb2
from millrace_database.database import Database
from millrace_database.job_lifecycle import claim_jobs
from millrace_database.job_options import RetentionRule, RetryRule, TypeLimits, TypeOptions
from millrace_database.job_types_repository import PublishedType, publish_job_types
from millrace_queue import CHANNEL_READY, Rate, SweepProgress, sweep_gates
from millrace_runtime import interceptor
from millrace_runtime.identity import Caller, Role
from support.jobs_api import ANY_TYPE, TYPE, JobsApi, refusal, refused_fields, serving, start_worker

MINUTE = Duration(seconds=60)


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _handler_says(database: Database, options: TypeOptions) -> None:
    """Have the handler of a type ask for this, as its worker publishes it."""
    published = PublishedType(ANY_TYPE, "", "", "{}", 4, timedelta(minutes=1), 1, options)
    async with database.transaction() as connection:
        await publish_job_types(connection, [published])


async def _update_type(api: JobsApi, **limits: Any) -> job_pb2.JobType:
    request = jobs_service_pb2.UpdateJobTypeLimitsRequest(
        type=ANY_TYPE, limits=limits_pb2.JobTypeLimits(**limits)
    )
    return (await api.jobs.UpdateJobTypeLimits(request)).job_type


async def _listed(api: JobsApi, name: str = ANY_TYPE) -> job_pb2.JobType:
    listed = await api.jobs.ListJobTypes(jobs_service_pb2.ListJobTypesRequest())
    found = next(job_type for job_type in listed.job_types if job_type.type == name)
    assert (await api.jobs.GetJobType(jobs_service_pb2.GetJobTypeRequest(type=name))).job_type == found
    return found


async def _update_organisation(api: JobsApi, **limits: Any) -> limits_pb2.Organisation:
    request = jobs_service_pb2.UpdateOrganisationLimitsRequest(
        org_id="acme", limits=limits_pb2.OrganisationLimits(**limits)
    )
    return (await api.jobs.UpdateOrganisationLimits(request)).organisation


async def _organisation(api: JobsApi, org_id: str = "acme") -> limits_pb2.Organisation:
    request = jobs_service_pb2.GetOrganisationRequest(org_id=org_id)
    return (await api.jobs.GetOrganisation(request)).organisation


async def _claimed(database: Database) -> int:
    """Return how many jobs a worker gets that takes all it can."""
    worker_id, progress = await start_worker(database), SweepProgress()
    async with database.connection() as connection:
        while (await sweep_gates(connection, progress)).more:
            pass
    async with database.transaction() as connection:
        return len(await claim_jobs(connection, worker_id, {ANY_TYPE: 100, TYPE: 100}, 100))


@asynccontextmanager
async def _hints(database: Database) -> AsyncIterator["asyncio.Queue[str]"]:
    hints: asyncio.Queue[str] = asyncio.Queue()
    listening = await database.direct_connection()
    try:
        await listening.add_listener(CHANNEL_READY, lambda *hint: hints.put_nowait(hint[-1]))
        async with asyncio.timeout(10):
            yield hints
    finally:
        await listening.close()


async def test_a_type_shows_what_its_handler_says(api: JobsApi, database: Database) -> None:
    plain = await _listed(api)
    assert (plain.paused, plain.limits, plain.dead_letter_type) == (False, limits_pb2.JobTypeLimits(), "")
    assert not plain.HasField("retry_policy")

    await _handler_says(
        database,
        TypeOptions(
            retry=RetryRule(backoff="linear", initial_delay=timedelta(seconds=5), jitter=0.0),
            dead_letter_type=TYPE,
            limits=TypeLimits(max_running=5, rate=Rate(10, timedelta(minutes=1), smooth=True)),
            retention=RetentionRule(completed=timedelta(days=2)),
        ),
    )

    told = await _listed(api)
    assert told.limits == limits_pb2.JobTypeLimits(
        max_running=5, rate=limits_pb2.RateLimit(count=10, period=MINUTE, smooth=True)
    )
    assert told.retry_policy.backoff == 2
    assert told.retry_policy.initial_delay == Duration(seconds=5)
    assert told.retry_policy.HasField("jitter")
    assert told.dead_letter_type == TYPE
    assert told.retention.completed == Duration(seconds=2 * 86_400)
    assert not told.retention.HasField("failed")


async def test_a_delay_is_not_to_be_cut_short_by_the_longest_one_of_the_type(
    api: JobsApi, database: Database
) -> None:
    await _handler_says(database, TypeOptions(retry=RetryRule(max_delay=timedelta(minutes=5))))

    too_long = job_options_pb2.RetryPolicy(initial_delay=Duration(seconds=301))
    assert await refused_fields(api.create(retry_policy=too_long)) == {
        "retry_policy.initial_delay": "must not be longer than the max_delay of the type, 300 s, "
        "unless max_delay is set, too"
    }
    for policy in (
        job_options_pb2.RetryPolicy(initial_delay=Duration(seconds=300)),
        job_options_pb2.RetryPolicy(initial_delay=Duration(seconds=301), max_delay=Duration(seconds=301)),
        job_options_pb2.RetryPolicy(max_delay=Duration(seconds=301)),
    ):
        assert (await api.create(retry_policy=policy)).retry_policy == policy


async def test_operators_limits_hold_instead_of_the_handler_s(api: JobsApi, database: Database) -> None:
    given = TypeOptions(limits=TypeLimits(max_running=5, rate=Rate(10, timedelta(minutes=1))))
    await _handler_says(database, given)

    updated = await _update_type(api, max_running=2, max_running_per_organisation=1)
    assert updated.limits.max_running == 2
    assert updated.limits.max_running_per_organisation == 1
    assert updated.limits.rate == limits_pb2.RateLimit(count=10, period=MINUTE)
    assert await _listed(api) == updated

    # A new release of the handler changes only what operators have left to it.
    newer = replace(given, limits=TypeLimits(max_running=9, rate=Rate(20, timedelta(minutes=1))))
    await _handler_says(database, newer)
    limits = (await _listed(api)).limits
    assert (limits.max_running, limits.rate.count) == (2, 20)

    limits = (await _update_type(api, rate=limits_pb2.RateLimit(count=0))).limits
    assert limits == limits_pb2.JobTypeLimits(max_running=9)

    assert (await _update_type(api, max_running=0)).limits == limits_pb2.JobTypeLimits(
        rate=limits_pb2.RateLimit(count=20, period=MINUTE)
    )
    assert (await _update_type(api)).limits.max_running == 9


async def test_as_many_of_a_type_start_as_its_limits_allow(api: JobsApi, database: Database) -> None:
    for org_id in ("acme", "acme", "acme", "other", "other"):
        await api.create(org_id=org_id)

    await _update_type(api, max_running_per_organisation=1)
    assert await _claimed(database) == 2
    await _update_type(api, max_running=3, max_running_per_organisation=0)
    assert await _claimed(database) == 1
    await _update_type(api, max_running=0)
    assert await _claimed(database) == 2


async def test_a_rate_lets_so_many_start(api: JobsApi, database: Database) -> None:
    for _ in range(5):
        await api.create()

    await _update_type(api, rate=limits_pb2.RateLimit(count=2, period=Duration(seconds=3600)))
    assert await _claimed(database) == 2
    assert await _claimed(database) == 0
    await _update_type(api, rate=limits_pb2.RateLimit(count=0))
    assert await _claimed(database) == 3


async def test_a_paused_type_starts_nothing_until_it_is_resumed(api: JobsApi, database: Database) -> None:
    await api.create()
    pause = jobs_service_pb2.PauseJobTypeRequest(type=ANY_TYPE)
    resume = jobs_service_pb2.ResumeJobTypeRequest(type=ANY_TYPE)

    for _ in range(2):
        assert (await api.jobs.PauseJobType(pause)).job_type.paused
    assert (await _listed(api)).paused
    assert not (await _listed(api, TYPE)).paused
    assert await _claimed(database) == 0

    async with _hints(database) as hints:
        assert not (await api.jobs.ResumeJobType(resume)).job_type.paused
        assert await hints.get() == ANY_TYPE
    assert not (await api.jobs.ResumeJobType(resume)).job_type.paused
    assert await _claimed(database) == 1


async def test_a_pause_and_limits_of_a_type_leave_each_other_alone(api: JobsApi) -> None:
    await _update_type(api, max_running=4)
    paused = (await api.jobs.PauseJobType(jobs_service_pb2.PauseJobTypeRequest(type=ANY_TYPE))).job_type
    assert (paused.paused, paused.limits.max_running) == (True, 4)
    assert (await _update_type(api, max_running=3)).paused


async def test_an_organisation_has_the_ordinary_values_until_somebody_sets_others(api: JobsApi) -> None:
    ordinary = limits_pb2.Organisation(org_id="acme", limits=limits_pb2.OrganisationLimits(weight=1))
    assert await _organisation(api) == ordinary

    rate = limits_pb2.RateLimit(count=3, period=MINUTE, smooth=True)
    updated = await _update_organisation(api, weight=7, max_running=2, rate=rate)
    assert updated.limits == limits_pb2.OrganisationLimits(weight=7, max_running=2, rate=rate)
    assert await _organisation(api) == updated
    assert await _organisation(api, "other") == limits_pb2.Organisation(
        org_id="other", limits=ordinary.limits
    )

    assert await _update_organisation(api) == ordinary


async def test_a_paused_organisation_starts_nothing_until_it_is_resumed(
    api: JobsApi, database: Database
) -> None:
    await api.create()
    await api.create(org_id="other", type=TYPE, input={"file_id": "1"})
    await _update_organisation(api, weight=3)
    pause = jobs_service_pb2.PauseOrganisationRequest(org_id="acme")
    resume = jobs_service_pb2.ResumeOrganisationRequest(org_id="acme")

    for _ in range(2):
        organisation = (await api.jobs.PauseOrganisation(pause)).organisation
        assert (organisation.paused, organisation.limits.weight) == (True, 3)
    assert await _claimed(database) == 1

    async with _hints(database) as hints:
        assert not (await api.jobs.ResumeOrganisation(resume)).organisation.paused
        assert await hints.get() == ""
    assert not (await _organisation(api)).paused
    assert await _claimed(database) == 1


async def test_the_health_of_the_queue_is_told(api: JobsApi, database: Database) -> None:
    for org_id in ("acme", "acme", "other"):
        await api.create(org_id=org_id)
    await api.create(type=TYPE, input={"file_id": "1"})

    async def depths(**fields: Any) -> dict[tuple[str, str], int]:
        health = await api.jobs.GetQueueHealth(jobs_service_pb2.GetQueueHealthRequest(**fields))
        assert {"queue", "jobs"} <= {table.table for table in health.tables}
        assert all(depth.HasField("oldest_wait") for depth in health.depths)
        return {(depth.type, depth.org_id): depth.ready for depth in health.depths}

    all_depths = {(ANY_TYPE, "acme"): 2, (ANY_TYPE, "other"): 1, (TYPE, "acme"): 1}
    assert await depths() == all_depths
    assert await depths(type=ANY_TYPE, org_id="acme") == {(ANY_TYPE, "acme"): 2}
    assert await depths(org_id="nobody") == {}


async def test_only_operators_may_hold_jobs_back_and_see_the_queue(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = {
        "ann": Caller("ann", frozenset({"acme"})),
        "op": Caller("op", frozenset(), frozenset({Role.OPERATOR})),
    }

    def calls() -> list[Awaitable[Any]]:
        everything = jobs_service_pb2.JobFilter()
        return [
            api.jobs.PauseJobType(jobs_service_pb2.PauseJobTypeRequest(type=ANY_TYPE)),
            api.jobs.ResumeJobType(jobs_service_pb2.ResumeJobTypeRequest(type=ANY_TYPE)),
            api.jobs.UpdateJobTypeLimits(jobs_service_pb2.UpdateJobTypeLimitsRequest(type=ANY_TYPE)),
            api.jobs.GetOrganisation(jobs_service_pb2.GetOrganisationRequest(org_id="acme")),
            api.jobs.PauseOrganisation(jobs_service_pb2.PauseOrganisationRequest(org_id="acme")),
            api.jobs.ResumeOrganisation(jobs_service_pb2.ResumeOrganisationRequest(org_id="acme")),
            api.jobs.UpdateOrganisationLimits(
                jobs_service_pb2.UpdateOrganisationLimitsRequest(org_id="acme")
            ),
            api.jobs.GetQueueHealth(jobs_service_pb2.GetQueueHealthRequest()),
            api.jobs.CancelJobs(jobs_service_pb2.CancelJobsRequest(org_id="-", filter=everything)),
            api.jobs.RetryJobs(jobs_service_pb2.RetryJobsRequest(org_id="-", filter=everything)),
        ]

    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: callers["ann"])
    for call in calls():
        assert (await refusal(call)).code() is grpc.StatusCode.PERMISSION_DENIED
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: callers["op"])
    for call in calls():
        await call


async def test_a_caller_changes_many_jobs_only_in_its_own_organisations(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = Caller("ann", frozenset({"acme"}))
    monkeypatch.setattr(interceptor, "authenticate", lambda _metadata: ann)
    everything = jobs_service_pb2.JobFilter()
    key = {"type": ANY_TYPE, "key": "disk"}
    for call in (
        api.jobs.CancelJobs(jobs_service_pb2.CancelJobsRequest(org_id="other", filter=everything)),
        api.jobs.RetryJobs(jobs_service_pb2.RetryJobsRequest(org_id="other", filter=everything)),
        api.jobs.ListJobAttempts(
            jobs_service_pb2.ListJobAttemptsRequest(org_id="other", job_id="job_" + "0" * 32)
        ),
        api.jobs.UnblockConcurrencyKey(jobs_service_pb2.UnblockConcurrencyKeyRequest(org_id="other", **key)),
    ):
        assert (await refusal(call)).code() is grpc.StatusCode.PERMISSION_DENIED
    await api.jobs.CancelJobs(jobs_service_pb2.CancelJobsRequest(org_id="acme", filter=everything))
    request = jobs_service_pb2.UnblockConcurrencyKeyRequest(org_id="acme", **key)
    assert (await api.jobs.UnblockConcurrencyKey(request)).job_id == ""
