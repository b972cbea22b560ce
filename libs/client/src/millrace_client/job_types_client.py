"""The job types of an installation: look at them, hold them back."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

from collections.abc import AsyncIterator, Iterator

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.job_type import JobType, read_job_type
from millrace_client.limits import JobTypeLimits, to_type_limits


class JobTypesClient:
    """Calls to the Jobs service about types, which all organisations share; changing them is for operators.

    Every method raises a CallError of the status that the server answered with, NotFoundError for a type that
    nobody ever published. What is changed holds within 2 seconds on all workers; jobs that run go on.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, page_size: int = 100, timeout: float | None = None) -> AsyncIterator[JobType]:
        """Yield the job types that workers have published, by name; pages are fetched as needed."""

        async def fetch(page_token: str) -> tuple[Iterator[JobType], str]:
            request = messages.ListJobTypesRequest(page_size=page_size, page_token=page_token)
            page = await self._connection.call(self._connection.jobs.ListJobTypes, request, timeout)
            return map(read_job_type, page.job_types), page.next_page_token

        return read_pages(fetch, limit=None)

    async def get(self, job_type: str, *, timeout: float | None = None) -> JobType:
        """Return a job type."""
        request = messages.GetJobTypeRequest(type=job_type)
        response = await self._connection.call(self._connection.jobs.GetJobType, request, timeout)
        return read_job_type(response.job_type)

    async def pause(self, job_type: str, *, timeout: float | None = None) -> JobType:
        """Start no more jobs of a type."""
        request = messages.PauseJobTypeRequest(type=job_type)
        response = await self._connection.call(self._connection.jobs.PauseJobType, request, timeout)
        return read_job_type(response.job_type)

    async def resume(self, job_type: str, *, timeout: float | None = None) -> JobType:
        """Start jobs of a type again."""
        request = messages.ResumeJobTypeRequest(type=job_type)
        response = await self._connection.call(self._connection.jobs.ResumeJobType, request, timeout)
        return read_job_type(response.job_type)

    async def set_limits(
        self, job_type: str, limits: JobTypeLimits, *, timeout: float | None = None
    ) -> JobType:
        """Set all limits of a type at once; those that are None are as its handler says."""
        request = messages.UpdateJobTypeLimitsRequest(type=job_type, limits=to_type_limits(limits))
        response = await self._connection.call(self._connection.jobs.UpdateJobTypeLimits, request, timeout)
        return read_job_type(response.job_type)
