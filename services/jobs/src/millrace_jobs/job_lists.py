"""Which jobs ListJobs wants, and pages of them that fit into a message."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database import jobs_repository
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.jobs_repository import JobFilters
from millrace_jobs.job_filters import check_filters
from millrace_jobs.job_messages import job_message
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.validation import Violations

# gRPC clients accept messages of 4 MiB by default. A page ends before it grows larger, and holds one job at least.
_MAX_PAGE_BYTES = 3 * 1024 * 1024
# Rows are read in pieces: a page of jobs with large inputs is full long before its last row.
_PIECE = 100


@dataclass(frozen=True, slots=True)
class JobQuery:
    """What a request to list jobs asks for.

    Attributes:
        filters: which jobs.
        page_size: how many at most.
        bound_to: what a page token is good for.

    """

    filters: JobFilters
    page_size: int
    bound_to: Mapping[str, Any]


def check_query(request: jobs_service_pb2.ListJobsRequest, violations: Violations) -> JobQuery:
    """Return what `request` asks for. All that is wrong is added to `violations`; the query is good for nothing then."""
    org_id = violations.check_org_id(request.org_id, allow_all=True)
    filters = check_filters(org_id, request, violations)
    if request.parent_job_id:
        parent_job_id = violations.check_id("parent_job_id", request.parent_job_id, "job")
        filters = replace(filters, parent_job_id=parent_job_id)
    return JobQuery(filters, violations.check_page_size(request.page_size), _bound_to(filters))


async def read_page(
    database: Database, query: JobQuery, page_token: str
) -> jobs_service_pb2.ListJobsResponse:
    """Return the page that `page_token` stands for: fewer jobs than asked for when they are large.

    Raises InvalidArgument on `page_token`.
    """
    after = last_id(page_token, query.bound_to)
    response = jobs_service_pb2.ListJobsResponse()
    size = 0
    while True:
        wanted = min(query.page_size - len(response.jobs), _PIECE)
        async with database.session() as session:
            records = await jobs_repository.list_jobs(session, query.filters, after, wanted + 1)
        for record in records[:wanted]:
            job = job_message(record)
            size += job.ByteSize()
            if response.jobs and size > _MAX_PAGE_BYTES:
                response.next_page_token = token_behind(str(after), query.bound_to)
                return response
            response.jobs.append(job)
            after = record.job_id
        if len(records) <= wanted:
            return response
        if len(response.jobs) == query.page_size:
            response.next_page_token = token_behind(str(after), query.bound_to)
            return response


def _bound_to(filters: JobFilters) -> dict[str, Any]:
    bound_to = {
        "org_id": filters.org_id,
        "statuses": filters.statuses,
        "types": filters.types,
        "created_by": filters.created_by,
        "created_after": filters.created_after,
        "created_before": filters.created_before,
        "schedule_id": filters.schedule_id and format_id("schedule", filters.schedule_id),
        "metadata": filters.metadata_json and orjson.loads(filters.metadata_json),
    }
    # Versions that do not know these filters take each other's tokens as long as they are not used.
    if filters.error_codes:
        bound_to["error_codes"] = filters.error_codes
    if filters.parent_job_id is not None:
        bound_to["parent_job_id"] = format_id("job", filters.parent_job_id)
    return bound_to
