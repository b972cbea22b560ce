"""The client: everything that can be asked of a Millrace."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import os
from types import TracebackType
from typing import Self

import grpc

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.connection import Addresses, Connection
from millrace_client.files_client import FilesClient
from millrace_client.job_types_client import JobTypesClient
from millrace_client.jobs_client import JobsClient
from millrace_client.organisations_client import OrganisationsClient
from millrace_client.queue_health import QueueHealth, read_queue_health
from millrace_client.schedules_client import SchedulesClient
from millrace_client.subscriptions_client import SubscriptionsClient
from millrace_client.system_schedules_client import SystemSchedulesClient
from millrace_client.workers_client import WorkersClient


class Organisation:
    """One organisation's jobs, files, schedules and subscriptions, over a client's connections."""

    def __init__(self, connection: Connection, org_id: str) -> None:
        self.org_id = org_id
        self.jobs = JobsClient(connection, org_id)
        self.files = FilesClient(connection, org_id)
        self.schedules = SchedulesClient(connection, org_id)
        self.subscriptions = SubscriptionsClient(connection, org_id)


class Millrace(Organisation):
    """A client of the three services, for use as `async with Millrace(…) as client:`.

    Addresses are "host:port". What is not given comes from the environment:
    MILLRACE_JOBS_ADDRESS, MILLRACE_SCHEDULER_ADDRESS and MILLRACE_WORKER_ADDRESS, else this machine at
    MILLRACE_JOBS_PORT (50051), MILLRACE_SCHEDULER_PORT (50052) and MILLRACE_WORKER_PORT (50053);
    MILLRACE_ORG_ID for `org_id`. Nothing is sent before the first call.

    `timeout` is the seconds that a call may take when it names no other. `credentials` encrypt the
    connections and may carry call credentials; without them they are neither encrypted nor
    authenticated. Must be made inside a running event loop.
    """

    def __init__(
        self,
        jobs: str | None = None,
        *,
        scheduler: str | None = None,
        worker: str | None = None,
        org_id: str | None = None,
        timeout: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        addresses = Addresses.from_environment(jobs, scheduler, worker)
        self._connection = Connection(addresses, timeout=timeout, credentials=credentials)
        super().__init__(self._connection, org_id or os.environ.get("MILLRACE_ORG_ID", ""))
        self.job_types = JobTypesClient(self._connection)
        self.organisations = OrganisationsClient(self._connection)
        self.system_schedules = SystemSchedulesClient(self._connection)
        self.workers = WorkersClient(self._connection)

    def organisation(self, org_id: str) -> Organisation:
        """Return another organisation's jobs, files, schedules and subscriptions; it shares this client's connections."""
        return Organisation(self._connection, org_id)

    async def queue_health(
        self, *, job_type: str = "", org_id: str = "", timeout: float | None = None
    ) -> QueueHealth:
        """Return how the queue is: its depth, its rates, and what may slow it down. For operators.

        Of all types and organisations, unless a type or an organisation is given. Raises a CallError of the status
        that the server answered with.
        """
        request = messages.GetQueueHealthRequest(type=job_type, org_id=org_id)
        return read_queue_health(
            await self._connection.call(self._connection.jobs.GetQueueHealth, request, timeout)
        )

    async def close(self) -> None:
        """End all calls and close the connections; the end of `async with` does it."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
