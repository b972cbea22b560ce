# ruff: noqa: N802 - the methods have the names of the contract
import asyncpg

import millrace_queue
from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database import job_type_limits, job_types_repository
from millrace_jobs.job_messages import job_type_message
from millrace_jobs.job_type_catalog import MAX_TYPE_LENGTH
from millrace_jobs.limit_messages import check_type_limits
from millrace_jobs.servicer_parts import Context, ServicerMethods
from millrace_runtime.errors import NotFound
from millrace_runtime.identity import Role, current_caller
from millrace_runtime.paging import last_name, token_behind
from millrace_runtime.validation import Violations


class JobTypeMethods(ServicerMethods):
    """The methods that show job types, and those by which operators hold them back."""

    async def ListJobTypes(
        self, request: jobs_service_pb2.ListJobTypesRequest, _context: Context
    ) -> jobs_service_pb2.ListJobTypesResponse:
        """Return a page of the published job types, by name."""
        violations = Violations()
        page_size = violations.check_page_size(request.page_size)
        violations.raise_if_any()
        # Whoever may call may see them.
        current_caller()
        after = last_name(request.page_token, {})
        async with self._parts.database.connection() as connection:
            types = await job_types_repository.list_job_types(connection, after, page_size + 1)
        page = types[:page_size]
        return jobs_service_pb2.ListJobTypesResponse(
            job_types=[job_type_message(record) for record in page],
            next_page_token=token_behind(page[-1].type, {}) if len(types) > page_size else "",
        )

    async def GetJobType(
        self, request: jobs_service_pb2.GetJobTypeRequest, _context: Context
    ) -> jobs_service_pb2.GetJobTypeResponse:
        """Return one job type."""
        violations = Violations()
        name = violations.check_text("type", request.type, max_length=MAX_TYPE_LENGTH, required=True)
        violations.raise_if_any()
        # Whoever may call may see it.
        current_caller()
        async with self._parts.database.connection() as connection:
            job_type = await _read(connection, name)
        return jobs_service_pb2.GetJobTypeResponse(job_type=job_type)

    async def PauseJobType(
        self, request: jobs_service_pb2.PauseJobTypeRequest, _context: Context
    ) -> jobs_service_pb2.PauseJobTypeResponse:
        """Have no more jobs of a type started."""
        name = _check_type(request.type, Violations())
        async with self._parts.database.transaction() as connection:
            await _read(connection, name)
            await millrace_queue.pause_type(connection, name)
            job_type = await _read(connection, name)
        return jobs_service_pb2.PauseJobTypeResponse(job_type=job_type)

    async def ResumeJobType(
        self, request: jobs_service_pb2.ResumeJobTypeRequest, _context: Context
    ) -> jobs_service_pb2.ResumeJobTypeResponse:
        """Have jobs of a type started again."""
        name = _check_type(request.type, Violations())
        async with self._parts.database.transaction() as connection:
            await _read(connection, name)
            await millrace_queue.resume_type(connection, name)
            job_type = await _read(connection, name)
        self._parts.hints.jobs_wait({name})
        return jobs_service_pb2.ResumeJobTypeResponse(job_type=job_type)

    async def UpdateJobTypeLimits(
        self, request: jobs_service_pb2.UpdateJobTypeLimitsRequest, _context: Context
    ) -> jobs_service_pb2.UpdateJobTypeLimitsResponse:
        """Set limits of a type that hold instead of those its handler gives."""
        violations = Violations()
        limits = check_type_limits(request.limits, violations)
        name = _check_type(request.type, violations)
        async with self._parts.database.transaction() as connection:
            await job_type_limits.update_job_type_limits(connection, name, limits)
            job_type = await _read(connection, name)
        self._parts.hints.jobs_wait({name})
        return jobs_service_pb2.UpdateJobTypeLimitsResponse(job_type=job_type)


def _check_type(name: str, violations: Violations) -> str:
    """Return the name of a type that an operator may change; `violations` are those of the request's other fields."""
    checked = violations.check_text("type", name, max_length=MAX_TYPE_LENGTH, required=True)
    violations.raise_if_any()
    current_caller().require_role(Role.OPERATOR)
    return checked


async def _read(connection: asyncpg.Connection, name: str) -> job_pb2.JobType:
    record = await job_types_repository.get_job_type(connection, name)
    if record is None:
        raise NotFound("job type", name)
    return job_type_message(record)
