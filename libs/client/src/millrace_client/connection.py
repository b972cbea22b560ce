"""The connections of one client, and how a call is made on them."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

import grpc

from millrace.files.v1.files_service_pb2_grpc import FilesServiceStub
from millrace.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from millrace.jobs.v1.subscriptions_service_pb2_grpc import SubscriptionsServiceStub
from millrace.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from millrace.worker.v1.worker_service_pb2_grpc import WorkerServiceStub
from millrace_client.channel import open_channel
from millrace_client.errors import from_rpc_error
from millrace_client.job_creations import JobCreations

if TYPE_CHECKING:  # the stubs' asynchronous forms exist for type checkers only
    from millrace.files.v1.files_service_pb2_grpc import FilesServiceAsyncStub
    from millrace.jobs.v1.jobs_service_pb2_grpc import JobsServiceAsyncStub
    from millrace.jobs.v1.subscriptions_service_pb2_grpc import SubscriptionsServiceAsyncStub
    from millrace.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceAsyncStub
    from millrace.worker.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the three services are, each as "host:port" or in any form that gRPC resolves."""

    jobs: str
    scheduler: str
    worker: str

    @classmethod
    def from_environment(
        cls, jobs: str | None = None, scheduler: str | None = None, worker: str | None = None
    ) -> "Addresses":
        """Fill in what is not given: MILLRACE_JOBS_ADDRESS, else this machine at MILLRACE_JOBS_PORT; and alike."""
        return cls(
            jobs=jobs or _address("JOBS", 50051),
            scheduler=scheduler or _address("SCHEDULER", 50052),
            worker=worker or _address("WORKER", 50053),
        )


class Connection:
    """The channels to the three services, and the deadline of a call that names none.

    Must be made inside a running event loop.
    """

    def __init__(
        self, addresses: Addresses, *, timeout: float, credentials: grpc.ChannelCredentials | None
    ) -> None:
        jobs = open_channel(addresses.jobs, credentials)
        scheduler = open_channel(addresses.scheduler, credentials)
        worker = open_channel(addresses.worker, credentials)
        self.jobs: JobsServiceAsyncStub = JobsServiceStub(jobs)
        self.files: FilesServiceAsyncStub = FilesServiceStub(jobs)
        self.subscriptions: SubscriptionsServiceAsyncStub = SubscriptionsServiceStub(jobs)
        self.scheduler: SchedulerServiceAsyncStub = SchedulerServiceStub(scheduler)
        self.worker: WorkerServiceAsyncStub = WorkerServiceStub(worker)
        self._timeout = timeout
        self._creations: WeakValueDictionary[str, JobCreations] = WeakValueDictionary()
        self._channels = (jobs, scheduler, worker)

    async def call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        """Make one call; `timeout` in seconds, None: the client's own. Raises the CallError of its status."""
        try:
            return await method(request, timeout=self.seconds(timeout))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def call_unbounded(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        """Make a call that takes as long as it takes; `timeout` in seconds, None: without limit. Raises as `call`."""
        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def seconds(self, timeout: float | None) -> float:
        """Return how long a call may take; `timeout` is what its caller said, None: the client's own."""
        return self._timeout if timeout is None else timeout

    def creations(self, org_id: str) -> JobCreations:
        """Return what creates the single jobs of an organisation: the same for all who ask while any of them has it."""
        creations = self._creations.get(org_id)
        if creations is None:
            creations = self._creations[org_id] = JobCreations(self, org_id)
        return creations

    async def close(self) -> None:
        """End all calls and close the channels."""
        for creations in list(self._creations.values()):
            await creations.close()
        for channel in self._channels:
            await channel.close()


async def read_pages(
    fetch: Callable[[str], Awaitable[tuple[Iterable[_Item], str]]], limit: int | None
) -> AsyncIterator[_Item]:
    """Yield the items of all pages, at most `limit`; a page is fetched once the one before it is used up.

    `fetch` gets a page token and returns the page's items and the next page's token.
    """
    left = limit
    token = ""
    while left is None or left > 0:
        items, token = await fetch(token)
        for item in items:
            if left is not None:
                if left <= 0:
                    return
                left -= 1
            yield item
        if not token:
            return


def _address(service: str, default_port: int) -> str:
    port = os.environ.get(f"MILLRACE_{service}_PORT") or default_port
    return os.environ.get(f"MILLRACE_{service}_ADDRESS") or f"127.0.0.1:{port}"
