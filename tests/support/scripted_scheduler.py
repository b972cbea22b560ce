"""A Scheduler service that answers as it is told, and a client of it."""
# ruff: noqa: N802 - the methods of generated servicers

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc

from millrace.scheduler.v1.scheduler_service_pb2_grpc import (
    SchedulerServiceServicer,
    add_SchedulerServiceServicer_to_server,
)
from millrace_client import Millrace
from support.scripted_server import scripted_server


class ScriptedScheduler(SchedulerServiceServicer):
    """Answers each call with the next step of its script, a response or a status, and keeps the requests."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[Any] = []

    async def CreateSchedule(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, "as scripted")
        return step

    GetSchedule = UpdateSchedule = ListSchedules = DeleteSchedule = CreateSchedule
    PauseSchedule = ResumeSchedule = RunSchedule = ListScheduleRuns = CreateSchedule
    PreviewSchedule = BackfillSchedule = ListSystemSchedules = RunSystemSchedule = CreateSchedule


def serving(scheduler: ScriptedScheduler) -> AbstractAsyncContextManager[str]:
    return scripted_server(add_SchedulerServiceServicer_to_server, scheduler)


@asynccontextmanager
async def client_of(scheduler: ScriptedScheduler) -> AsyncIterator[Millrace]:
    async with serving(scheduler) as address, Millrace(scheduler=address, org_id="acme") as client:
        yield client
