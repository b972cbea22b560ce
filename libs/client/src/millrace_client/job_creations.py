"""Creating single jobs: those of concurrent callers travel in one call."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.errors import CallError, DeadlineExceededError, from_status

if TYPE_CHECKING:
    from millrace_client.connection import Connection

Creation: TypeAlias = messages.CreateJobResponse | messages.BatchCreateJobsResult
"""What became of a request: either has the `job`, and whether it `already_existed` or was `replaced`."""

_MOST_CALLS = 2
_MOST_JOBS = 500
# The answer has the jobs as Structs, which may be seven times as long as JSON text, and must stay below 4 MiB.
_MOST_BYTES = 512 * 1024
# The service is away, or the jobs may exist: another call for each would be no better.
_SHARED_ERRORS = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class JobCreations:
    """Creates single jobs of one organisation.

    Callers that come at the same moment, or while two calls are under way, share the next call. Nobody waits for a
    timer, and who is alone has a plain CreateJob. A request needs a `request_id`, since it may be sent twice.
    """

    def __init__(self, connection: "Connection", org_id: str) -> None:
        self._connection = connection
        self._org_id = org_id
        self._waiting: list[_Creation] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._will_begin = False

    async def create(self, request: messages.CreateJobRequest, timeout: float) -> Creation:
        """Create a job within `timeout` seconds. Raises what a CreateJob of its own would."""
        if request.validate_only:
            # The service takes no batch of which only some are to be created.
            return await self._connection.call(self._connection.jobs.CreateJob, request, timeout)
        loop = asyncio.get_running_loop()
        creation = _Creation(request, loop.time() + timeout)
        self._waiting.append(creation)
        self._begin_soon()
        expiry = loop.call_at(creation.deadline, creation.expire)
        try:
            return await creation.answer
        except BaseException:
            creation.leave()
            raise
        finally:
            expiry.cancel()

    async def close(self) -> None:
        """Cancel all calls, and those who wait for them."""
        for creation in self._waiting:
            creation.answer.cancel()
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _begin_soon(self) -> None:
        # Not at once: what is created in the same turn of the event loop goes along.
        if self._waiting and not self._will_begin and len(self._calls) < _MOST_CALLS:
            self._will_begin = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._will_begin = False
        while len(self._calls) < _MOST_CALLS and (batch := self._take()):
            call = asyncio.create_task(self._send(batch))
            self._calls.add(call)
            call.add_done_callback(partial(self._end, batch))
            shared = _SharedCall(call, len(batch))
            for creation in batch:
                creation.call = shared

    def _end(self, batch: "Sequence[_Creation]", call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        for creation in batch:
            creation.answer.cancel()
        self._begin_soon()

    def _take(self) -> "list[_Creation]":
        """Take the next batch off those that wait, leaving out whoever has gone."""
        batch: list[_Creation] = []
        size = 0
        for place, creation in enumerate(self._waiting):
            if creation.answer.done():
                continue
            size += creation.request.ByteSize()
            if batch and (size > _MOST_BYTES or len(batch) == _MOST_JOBS):
                del self._waiting[:place]
                return batch
            batch.append(creation)
        self._waiting.clear()
        return batch

    async def _send(self, batch: "Sequence[_Creation]") -> None:
        try:
            if len(batch) == 1:
                await self._send_one(batch[0])
            else:
                await self._send_many(batch)
        except Exception as error:  # noqa: BLE001 - it is raised where the jobs came from
            for creation in batch:
                creation.fail(error)

    async def _send_one(self, creation: "_Creation") -> None:
        try:
            response = await self._connection.call(
                self._connection.jobs.CreateJob, creation.request, creation.seconds_left()
            )
        except CallError as error:
            creation.fail(error)
        else:
            creation.succeed(response)

    async def _send_many(self, batch: "Sequence[_Creation]") -> None:
        request = messages.BatchCreateJobsRequest(
            org_id=self._org_id, requests=[creation.request for creation in batch], return_jobs=True
        )
        seconds = max(creation.seconds_left() for creation in batch)
        try:
            response = await self._connection.call(self._connection.jobs.BatchCreateJobs, request, seconds)
        except CallError as error:
            if error.code in _SHARED_ERRORS:
                for creation in batch:
                    creation.fail(_copy(error))
            else:
                # What is wrong with one of them, or with all, each learns as from a call of its own.
                await _all(self._send_one(creation) for creation in batch)
            return
        await _all(
            self._read(creation, result)
            for creation, result in zip(batch, response.results, strict=True)
            if not _settle(creation, result)
        )

    async def _read(self, creation: "_Creation", result: messages.BatchCreateJobsResult) -> None:
        request = messages.GetJobRequest(org_id=self._org_id, job_id=result.job_id)
        try:
            response = await self._connection.call(
                self._connection.jobs.GetJob, request, creation.seconds_left()
            )
        except CallError as error:
            creation.fail(error)
        else:
            result.job.CopyFrom(response.job)
            creation.succeed(result)


class _SharedCall:
    """A call under way, and how many callers wait for it; it is cancelled when nobody does any more."""

    def __init__(self, task: "asyncio.Task[None]", callers: int) -> None:
        self._task = task
        self._callers = callers

    def leave(self) -> None:
        self._callers -= 1
        if not self._callers:
            self._task.cancel()


class _Creation:
    """One caller's job on its way; `deadline` is in seconds of the event loop's clock."""

    __slots__ = ("answer", "call", "deadline", "request")

    def __init__(self, request: messages.CreateJobRequest, deadline: float) -> None:
        self.request = request
        self.deadline = deadline
        self.answer: asyncio.Future[Creation] = asyncio.get_running_loop().create_future()
        self.call: _SharedCall | None = None

    def seconds_left(self) -> float:
        return self.deadline - asyncio.get_running_loop().time()

    def succeed(self, made: Creation) -> None:
        if not self.answer.done():
            self.answer.set_result(made)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        self.fail(DeadlineExceededError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def leave(self) -> None:
        if self.call is not None:
            self.call.leave()


def _settle(creation: _Creation, result: messages.BatchCreateJobsResult) -> bool:
    """Give a caller its result; False when the answer had no room for the job."""
    if result.HasField("error"):
        creation.fail(from_status(result.error))
    elif result.HasField("job"):
        creation.succeed(result)
    else:
        return False
    return True


def _copy(error: CallError) -> CallError:
    # An exception that is raised in several places would gather all their tracebacks.
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(call)
