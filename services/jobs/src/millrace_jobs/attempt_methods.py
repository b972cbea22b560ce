# ruff: noqa: N802 - the methods have the names of the contract
from collections.abc import Mapping

from millrace.jobs.v1 import job_attempt_pb2, job_pb2, jobs_service_pb2
from millrace_database import jobs_repository
from millrace_database.ids import format_id
from millrace_database.job_attempts_repository import AttemptRecord, list_attempts
from millrace_jobs.servicer_parts import Context, ServicerMethods, no_job
from millrace_runtime.paging import encode_page_token, last_number
from millrace_runtime.resource_keys import check_key
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_runtime.validation import Violations

_OUTCOMES = {
    name.removeprefix("ATTEMPT_OUTCOME_").lower(): outcome
    for name, outcome in job_attempt_pb2.AttemptOutcome.items()
}
_COUNTED = frozenset(job_attempt_pb2.AttemptCounts.DESCRIPTOR.fields_by_name)


class AttemptMethods(ServicerMethods):
    """The method that lists the attempts of a job."""

    async def ListJobAttempts(
        self, request: jobs_service_pb2.ListJobAttemptsRequest, _context: Context
    ) -> jobs_service_pb2.ListJobAttemptsResponse:
        """Return a page of the attempts of a job, the latest first."""
        violations = Violations()
        size = violations.check_page_size(request.page_size)
        org_id, job_id = check_key("job", request.org_id, request.job_id, violations)
        bound_to = {"org_id": org_id, "job_id": request.job_id}
        after = last_number(request.page_token, bound_to)
        async with self._parts.database.connection() as connection:
            attempts = await list_attempts(connection, org_id, job_id, after, size + 1)
            if not attempts and await jobs_repository.get_job(connection, org_id, job_id) is None:
                raise no_job(job_id)
        page = attempts[:size]
        return jobs_service_pb2.ListJobAttemptsResponse(
            attempts=[_attempt(record) for record in page],
            next_page_token=(
                encode_page_token([page[-1].position], bound_to) if len(attempts) > size else ""
            ),
        )


def attempt_counts(counts: Mapping[str, int]) -> job_attempt_pb2.AttemptCounts:
    """Return how many attempts ended in which way, as callers see it."""
    return job_attempt_pb2.AttemptCounts(
        **{outcome: count for outcome, count in counts.items() if outcome in _COUNTED}
    )


def _attempt(record: AttemptRecord) -> job_attempt_pb2.JobAttempt:
    return job_attempt_pb2.JobAttempt(
        attempt=record.attempt,
        outcome=_OUTCOMES[record.outcome],
        started_at=None if record.started_at is None else datetime_to_timestamp(record.started_at),
        ended_at=None if record.ended_at is None else datetime_to_timestamp(record.ended_at),
        worker_id="" if record.worker_id is None else format_id("worker", record.worker_id),
        worker_name=record.worker_name,
        error=(
            None
            if record.error_code is None
            else job_pb2.JobError(code=record.error_code, message=record.error_message or "")
        ),
    )
