"""Following a job through broken connections."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable

import grpc

from millrace.jobs.v1.jobs_service_pb2 import WatchJobRequest, WatchJobResponse
from millrace_client.errors import UnavailableError, from_rpc_error
from millrace_client.job import Job, read_job

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0
# What a caller sees of a server that stops, or of a proxy that gives up on one. CANCELLED is how a stopping
# server ends its streams; a cancellation of our own arrives as asyncio.CancelledError.
_BROKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})

WatchCall = grpc.aio.UnaryStreamCall[WatchJobRequest, WatchJobResponse]


async def watch_job(open_stream: Callable[[], WatchCall], patience: float) -> AsyncGenerator[Job, None]:
    """Yield a job's snapshots until it is finished, each once, opening the stream anew when it breaks.

    UnavailableError after `patience` seconds without a stream that answers; other statuses are raised at once.
    """
    latest: Job | None = None
    delay = _FIRST_DELAY
    heard = time.monotonic()
    while True:
        call = open_stream()
        broken = UnavailableError(grpc.StatusCode.UNAVAILABLE, "the stream ended before the job did")
        answered = False
        try:
            async for response in call:
                answered = True
                job = read_job(response.job)
                if job != latest:
                    latest = job
                    yield job
        except grpc.aio.AioRpcError as error:
            if error.code() not in _BROKEN:
                raise from_rpc_error(error) from error
            broken = UnavailableError(grpc.StatusCode.UNAVAILABLE, error.details() or "the connection broke")
        finally:
            call.cancel()
        if latest is not None and latest.status.finished:
            return
        if answered:
            # A stream may be silent for as long as the job does not change: it was alive until now.
            heard, delay = time.monotonic(), _FIRST_DELAY
        if time.monotonic() + delay > heard + patience:
            raise broken
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        delay = min(2 * delay, _LONGEST_DELAY)
