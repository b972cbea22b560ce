"""How soon a job is entered that is created on an idle system."""

import asyncio
import random
import time
import uuid
from datetime import timedelta
from functools import partial
from itertools import chain

import orjson

import millrace_queue
from bench.entered import entered_at
from bench.line import Line, at_most, quantile
from bench.rounds import Bench
from bench.samples import NOOP, ORG, new_jobs, small_input
from millrace.jobs.v1 import jobs_service_pb2, jobs_service_pb2_grpc
from millrace_client.channel import open_channel
from millrace_database import job_lifecycle
from millrace_database.database import Database
from millrace_database.ids import new_id, parse_id

# A type that no worker runs.
_BARE_TYPE = "bench:bare"
# Long enough for all that the job before set off to be over, and in step with nothing that is done regularly.
_PAUSE_SECONDS = (0.1, 0.2)


async def measure(bench: Bench) -> list[Line]:
    jobs = -(-bench.scale.pick_ups // bench.scale.rounds)
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.services(database, "jobs", "worker") as running,
        open_channel(running.jobs.address, None) as channel,
    ):
        stub: jobs_service_pb2_grpc.JobsServiceAsyncStub = jobs_service_pb2_grpc.JobsServiceStub(channel)
        taken = await bench.rounds(
            {
                "insert and claim, bare": partial(_bare_seconds, database, jobs),
                "pick-up": partial(_pick_up_seconds, database, stub, jobs),
            }
        )
    bare, pick_up = (
        sorted(seconds * 1000 for seconds in chain.from_iterable(rounds)) for rounds in taken.values()
    )
    return [
        Line("insert and claim of one job, bare, p50", "ms", [quantile(bare, 0.5)]),
        Line(
            "CreateJob sent → handler entered, idle, p50",
            "ms",
            [quantile(pick_up, 0.5)],
            "bare insert and claim, p50",
            [quantile(bare, 0.5)],
            at_most(5),
        ),
        Line(
            "CreateJob sent → handler entered, idle, p99",
            "ms",
            [quantile(pick_up, 0.99)],
            "bare insert and claim, p99",
            [quantile(bare, 0.99)],
            at_most(20),
        ),
    ]


async def _bare_seconds(database: Database, jobs: int) -> list[float]:
    """From the insertion of a job to its claim, each committed, for one job at a time."""
    worker_id = new_id()
    async with database.connection() as connection:
        await millrace_queue.register_worker(connection, worker_id, lease=timedelta(hours=1), details={})
    seconds = []
    for job in new_jobs(jobs, _BARE_TYPE):
        started_at = time.monotonic()
        async with database.connection() as connection:
            await job_lifecycle.create_plain_jobs(connection, [job])
            (claimed,) = await job_lifecycle.claim_jobs(connection, worker_id, {_BARE_TYPE: 1}, 1)
        seconds.append(time.monotonic() - started_at)
        async with database.connection() as connection:
            await job_lifecycle.complete_plain_jobs(connection, [(claimed.lease, None)])
        await asyncio.sleep(_pause())
    return seconds


async def _pick_up_seconds(
    database: Database, stub: "jobs_service_pb2_grpc.JobsServiceAsyncStub", jobs: int
) -> list[float]:
    """From the sending of CreateJob to the start of the handler, for one job at a time."""
    sent = {}
    for number in range(jobs):
        request = jobs_service_pb2.CreateJobRequest(
            org_id=ORG, type=NOOP, input_json=orjson.dumps(small_input(number)), request_id=uuid.uuid4().hex
        )
        sent_at = time.monotonic()
        response = await stub.CreateJob(request)
        sent[response.job.job_id] = sent_at
        await asyncio.sleep(_pause())
    return [
        await entered_at(database, ORG, parse_id("job", job_id)) - sent_at for job_id, sent_at in sent.items()
    ]


def _pause() -> float:
    return random.uniform(*_PAUSE_SECONDS)  # noqa: S311 - no secret
