# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import AsyncIterator
from contextlib import aclosing

from millrace.jobs.v1 import jobs_service_pb2, jobs_service_pb2_grpc
from millrace_database import job_attempts_repository, job_waiting, jobs_repository
from millrace_jobs.attempt_methods import AttemptMethods, attempt_counts
from millrace_jobs.job_control_methods import JobControlMethods
from millrace_jobs.job_lists import check_query, read_page
from millrace_jobs.job_messages import job_message
from millrace_jobs.job_output_methods import JobOutputMethods
from millrace_jobs.job_requests import MAX_BATCH_SIZE
from millrace_jobs.job_type_methods import JobTypeMethods
from millrace_jobs.organisation_methods import OrganisationMethods
from millrace_jobs.queue_health_methods import QueueHealthMethods
from millrace_jobs.servicer_parts import Context, no_job
from millrace_jobs.waiting_reasons import waiting_reason
from millrace_runtime.identity import current_caller
from millrace_runtime.resource_keys import check_key
from millrace_runtime.validation import Violations


class JobsServicer(
    AttemptMethods,
    JobControlMethods,
    JobOutputMethods,
    JobTypeMethods,
    OrganisationMethods,
    QueueHealthMethods,
    jobs_service_pb2_grpc.JobsServiceServicer,
):
    """Answers the calls of JobsService; the contract says what each one does."""

    async def CreateJob(
        self, request: jobs_service_pb2.CreateJobRequest, _context: Context
    ) -> jobs_service_pb2.CreateJobResponse:
        """Create a job; answered once it is committed."""
        return await self._parts.creator.create(request, current_caller())

    async def BatchCreateJobs(
        self, request: jobs_service_pb2.BatchCreateJobsRequest, _context: Context
    ) -> jobs_service_pb2.BatchCreateJobsResponse:
        """Create many jobs in one transaction."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        if not 1 <= len(request.requests) <= MAX_BATCH_SIZE:
            violations.add("requests", f"are {len(request.requests)}, and may be 1 to {MAX_BATCH_SIZE}")
        violations.raise_if_any()
        caller = current_caller()
        caller.require_organisation(org_id)
        return await self._parts.creator.create_batch(org_id, request, caller)

    async def GetJob(
        self, request: jobs_service_pb2.GetJobRequest, _context: Context
    ) -> jobs_service_pb2.GetJobResponse:
        """Return one job, how its attempts ended, and why it waits."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        async with self._parts.database.connection() as connection:
            record = await jobs_repository.get_job(connection, org_id, job_id)
            if record is None:
                raise no_job(job_id)
            counts = await job_attempts_repository.count_attempts(connection, org_id, job_id)
            facts = (
                await job_waiting.get_waiting_facts(connection, job_id)
                if record.status == "pending"
                else None
            )
        job = job_message(record)
        return jobs_service_pb2.GetJobResponse(
            job=job,
            attempt_counts=attempt_counts(counts),
            waiting_reason=(
                None if facts is None else waiting_reason(facts, job.error if job.HasField("error") else None)
            ),
        )

    async def ListJobs(
        self, request: jobs_service_pb2.ListJobsRequest, _context: Context
    ) -> jobs_service_pb2.ListJobsResponse:
        """Return a page of jobs, newest first."""
        violations = Violations()
        query = check_query(request, violations)
        violations.raise_if_any()
        current_caller().require_organisation(request.org_id)
        return await read_page(self._parts.database, query, request.page_token)

    async def WatchJob(
        self, request: jobs_service_pb2.WatchJobRequest, _context: Context
    ) -> AsyncIterator[jobs_service_pb2.WatchJobResponse]:
        """Stream the job as it is, then after each change, until it is finished."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        async with self._parts.database.connection() as connection:
            record = await jobs_repository.get_job(connection, org_id, job_id)
        if record is None:
            raise no_job(job_id)
        async with aclosing(self._parts.watcher.watch(record)) as jobs:
            async for job in jobs:
                yield jobs_service_pb2.WatchJobResponse(job=job)
