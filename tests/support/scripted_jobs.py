"""A Jobs service that misbehaves on command, and a client of it."""
# ruff: noqa: N802, ARG002 - the methods of generated servicers

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace.jobs.v1.jobs_service_pb2_grpc import JobsServiceServicer, add_JobsServiceServicer_to_server
from millrace_client import Millrace
from support.scripted_server import scripted_server


class ScriptedJobs(JobsServiceServicer):
    """Answers each call with the next step of its script, and keeps the requests.

    A step is a response, a status to fail with, or, for a watch, a list of jobs, statuses and events to wait for.
    """

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[Any] = []

    async def CreateJob(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return await self._play(self.script.pop(0), context)

    BatchCreateJobs = GetJob = ListJobs = CancelJob = RetryJob = CreateJob
    ListJobAttempts = CancelJobs = RetryJobs = UnblockConcurrencyKey = CreateJob
    ListJobTypes = GetJobType = PauseJobType = ResumeJobType = UpdateJobTypeLimits = CreateJob
    GetOrganisation = PauseOrganisation = ResumeOrganisation = UpdateOrganisationLimits = CreateJob
    GetQueueHealth = CreateJob

    async def DownloadJobOutput(
        self, request: Any, context: Any
    ) -> AsyncIterator[messages.DownloadJobOutputResponse]:
        self.requests.append(request)
        for step in self.script.pop(0):
            yield step

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[messages.WatchJobResponse]:
        self.requests.append(request)
        for step in self.script.pop(0):
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                yield messages.WatchJobResponse(job=await self._play(step, context))

    async def _play(self, step: Any, context: Any) -> Any:
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, "as scripted")
        if isinstance(step, Status):
            await context.abort_with_status(rpc_status.to_status(step))
        return step


def serving(jobs: ScriptedJobs, port: int = 0) -> AbstractAsyncContextManager[str]:
    return scripted_server(add_JobsServiceServicer_to_server, jobs, port)


@asynccontextmanager
async def client_of(jobs: ScriptedJobs) -> AsyncIterator[Millrace]:
    async with serving(jobs) as address, Millrace(address, org_id="acme") as client:
        yield client
