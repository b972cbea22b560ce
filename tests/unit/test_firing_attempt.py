"""When a job that could not be created is tried again."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import grpc
import pytest

from millrace_database.firing_repository import Reserved
from millrace_scheduler.firing_attempt import FIRING_SECONDS, FiringAttempt
from millrace_scheduler.jobs_client import JobsClient
from millrace_scheduler.recurrence_messages import recurrence_to_json
from support.schedule_records import SCHEDULE
from support.scheduler_api import every

_SECOND = timedelta(seconds=1)


class _RefusingJobs:
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    async def create_job(self, *_: Any, **__: Any) -> None:
        metadata = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(self._code, metadata, metadata, details="no\0pe")


@pytest.mark.parametrize(
    ("code", "failures", "delay"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 0, _SECOND),
        (grpc.StatusCode.FAILED_PRECONDITION, 3, 8 * _SECOND),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 0, 60 * _SECOND),
        (grpc.StatusCode.INTERNAL, 3, 480 * _SECOND),
    ],
)
async def test_a_refusal_counts_and_is_tried_again(
    code: grpc.StatusCode, failures: int, delay: timedelta
) -> None:
    outcome = await _attempt(code, failures)
    assert outcome is not None
    assert (outcome.outcome, outcome.reason, outcome.retry_delay) == ("failed", "nope", delay)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_trouble_on_the_way_counts_nothing(code: grpc.StatusCode) -> None:
    assert await _attempt(code, 4) is None


class _Deadlines:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def create_job(self, *_: Any, deadline_seconds: float, **__: Any) -> UUID:
        self.seconds.append(deadline_seconds)
        return UUID(int=2)

    async def cancel_job(self, *_: Any, deadline_seconds: float) -> None:
        self.seconds.append(deadline_seconds)


async def test_all_calls_of_a_firing_share_its_time() -> None:
    jobs = _Deadlines()
    schedule = replace(
        SCHEDULE,
        recurrence_json=recurrence_to_json(every(60)),
        overlap_policy="cancel_running",
        last_job_id=UUID(int=1),
    )
    attempt = FiringAttempt(cast("JobsClient", jobs), first_retry=_SECOND)
    await attempt(Reserved(schedule, tried_before=False))
    creation, cancellation = jobs.seconds
    assert cancellation < creation <= FIRING_SECONDS


async def _attempt(code: grpc.StatusCode, failures: int) -> Any:
    attempt = FiringAttempt(cast("JobsClient", _RefusingJobs(code)), first_retry=_SECOND)
    schedule = replace(SCHEDULE, recurrence_json=recurrence_to_json(every(60)), consecutive_failures=failures)
    return await attempt(Reserved(schedule, tried_before=False))
