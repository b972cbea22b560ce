"""Which jobs ListJobs wants, and pages of them that fit into a message."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database import jobs_repository
from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.jobs_repository import JobFilters
from millrace_jobs.job_messages import job_message, status_word
from millrace_runtime.identity import ALL_ORGANISATIONS
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.validation import Violations

# gRPC clients accept messages of 4 MiB by default. A page ends before it grows larger, and holds one job at least.
_MAX_PAGE_BYTES = 3 * 1024 * 1024
# Rows are read in pieces: a page of jobs with large inputs is full long before its last row.
_PIECE = 100
_MAX_TYPES = 1000
_MAX_TYPE_LENGTH = 128
_MAX_CREATOR_LENGTH = 256
_MAX_METADATA_BYTES = 16 * 1024


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
    metadata = violations.check_struct("metadata", request.metadata, max_bytes=_MAX_METADATA_BYTES)
    filters = JobFilters(
        org_id=None if org_id == ALL_ORGANISATIONS else org_id,
        statuses=_check_statuses(request, violations),
        types=_check_types(request, violations),
        created_by=violations.check_text("created_by", request.created_by, max_length=_MAX_CREATOR_LENGTH)
        or None,
        created_after=(
            violations.check_timestamp("created_after", request.created_after)
            if request.HasField("created_after")
            else None
        ),
        created_before=(
            violations.check_timestamp("created_before", request.created_before)
            if request.HasField("created_before")
            else None
        ),
        schedule_id=(
            violations.check_id("schedule_id", request.schedule_id, "schedule")
            if request.schedule_id
            else None
        ),
        metadata_json=metadata.text if metadata.value else None,
    )
    return JobQuery(
        filters, violations.check_page_size(request.page_size), _bound_to(filters, metadata.value)
    )


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


def _check_statuses(request: jobs_service_pb2.ListJobsRequest, violations: Violations) -> tuple[str, ...]:
    words = []
    for place, status in enumerate(request.statuses):
        word = status_word(status)
        if word is None:
            violations.add(f"statuses[{place}]", f"is {status}, which is no status of a job")
        else:
            words.append(word)
    return tuple(sorted(set(words)))


def _check_types(request: jobs_service_pb2.ListJobsRequest, violations: Violations) -> tuple[str, ...]:
    if len(request.types) > _MAX_TYPES:
        violations.add("types", f"are {len(request.types)}, more than {_MAX_TYPES}")
        return ()
    names = {
        violations.check_text(f"types[{place}]", name, max_length=_MAX_TYPE_LENGTH, required=True)
        for place, name in enumerate(request.types)
    }
    return tuple(sorted(names))


def _bound_to(filters: JobFilters, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "org_id": filters.org_id,
        "statuses": filters.statuses,
        "types": filters.types,
        "created_by": filters.created_by,
        "created_after": filters.created_after,
        "created_before": filters.created_before,
        "schedule_id": filters.schedule_id and format_id("schedule", filters.schedule_id),
        "metadata": metadata,
    }
