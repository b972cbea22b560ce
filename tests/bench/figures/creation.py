"""Creating jobs one by one, beside empty calls to the same server."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import orjson
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.line import Line, ratio_at_least
from bench.rounds import Bench
from bench.samples import NOOP, ORG, small_input
from millrace.jobs.v1 import jobs_service_pb2, jobs_service_pb2_grpc
from millrace_client import Millrace
from millrace_client.channel import open_channel

_Call = Callable[[int], Awaitable[object]]


async def measure(bench: Bench) -> list[Line]:
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.jobs_service(database) as running,
        open_channel(running.jobs.address, None) as channel,
        Millrace(running.jobs.address, org_id=ORG) as client,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        stub: jobs_service_pb2_grpc.JobsServiceAsyncStub = jobs_service_pb2_grpc.JobsServiceStub(channel)

        async def call_empty(_number: int) -> None:
            await health.Check(health_pb2.HealthCheckRequest())

        async def create(number: int) -> None:
            await stub.CreateJob(_request(number))

        async def create_by_sdk(number: int) -> None:
            await client.jobs.create(NOOP, small_input(number))

        calls = bench.scale.calls
        taken = await bench.rounds(
            {
                "empty calls, 1 in flight": partial(_rate, call_empty, calls // 10, in_flight=1),
                "creation, 1 in flight": partial(_rate, create, calls // 10, in_flight=1),
                "empty calls, 50 in flight": partial(_rate, call_empty, calls, in_flight=50),
                "creation, 50 in flight": partial(_rate, create, calls, in_flight=50),
                "creation by the SDK, 50 concurrent": partial(_rate, create_by_sdk, calls, in_flight=50),
            }
        )
    return _lines(*taken.values())


def _lines(
    empty_1: Sequence[float],
    create_1: Sequence[float],
    empty_50: Sequence[float],
    create_50: Sequence[float],
    sdk: Sequence[float],
) -> list[Line]:
    return [
        Line("empty unary call, 1 in flight", "calls/s", empty_1),
        Line("CreateJob, 1 in flight", "jobs/s", create_1, "empty call, 1 in flight", empty_1),
        Line("empty unary call, 50 in flight", "calls/s", empty_50),
        Line(
            "CreateJob, 50 in flight",
            "jobs/s",
            create_50,
            "empty call, 50 in flight",
            empty_50,
            goal=ratio_at_least(0.6),
        ),
        Line(
            "SDK, 50 concurrent create calls",
            "jobs/s",
            sdk,
            "CreateJob, 50 in flight",
            create_50,
            goal=ratio_at_least(2),
        ),
    ]


async def _rate(call: _Call, count: int, *, in_flight: int) -> float:
    """Calls a second."""
    numbers = iter(range(count))

    async def repeat() -> None:
        for number in numbers:
            await call(number)

    started_at = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(in_flight):
            callers.create_task(repeat())
    return count / (time.perf_counter() - started_at)


def _request(number: int) -> jobs_service_pb2.CreateJobRequest:
    return jobs_service_pb2.CreateJobRequest(
        org_id=ORG, type=NOOP, input_json=orjson.dumps(small_input(number)), request_id=uuid.uuid4().hex
    )
