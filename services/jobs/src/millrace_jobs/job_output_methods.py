# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import AsyncIterator

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database import jobs_repository
from millrace_database.ids import format_id
from millrace_jobs.file_messages import file_message
from millrace_jobs.file_ranges import check_range
from millrace_jobs.file_refusals import file_refusals
from millrace_jobs.job_output import OutputDocument, named_file
from millrace_jobs.servicer_parts import Context, ServicerMethods, no_job, wrong_status
from millrace_runtime.resource_keys import check_key
from millrace_runtime.validation import Violations


class JobOutputMethods(ServicerMethods):
    """The method by which callers get what a job came to."""

    async def DownloadJobOutput(
        self, request: jobs_service_pb2.DownloadJobOutputRequest, _context: Context
    ) -> AsyncIterator[jobs_service_pb2.DownloadJobOutputResponse]:
        """Stream the description of what a completed job came to, and then its content."""
        violations = Violations()
        start, end = check_range(request.offset, request.length, violations)
        org_id, job_id = check_key("job", request.org_id, request.job_id, violations)
        async with self._parts.database.connection() as connection:
            record = await jobs_repository.get_job(connection, org_id, job_id)
        if record is None:
            raise no_job(job_id)
        if record.status != "completed":
            raise wrong_status(job_id, record.status, "only a completed job has an output")
        file_id = named_file(record.output_json)
        if file_id is None:
            document = OutputDocument(record)
            parts = document.chunks(start, end)
            yield jobs_service_pb2.DownloadJobOutputResponse(file=document.description())
            for part in parts:
                yield jobs_service_pb2.DownloadJobOutputResponse(chunk=part)
            return
        with file_refusals(org_id, format_id("file", file_id)):
            file, chunks = await self._parts.files.open(org_id, file_id, start=start, end=end)
            yield jobs_service_pb2.DownloadJobOutputResponse(file=file_message(file))
            async for chunk in chunks:
                yield jobs_service_pb2.DownloadJobOutputResponse(chunk=chunk)
