"""Creating jobs: checks, then one transaction, then a hint to the workers."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.ids import format_id
from millrace_database.job_hints import JobHints
from millrace_database.job_lifecycle import CreatedJob, NewJob
from millrace_jobs.job_messages import job_message
from millrace_jobs.job_requests import MAX_TYPE_LENGTH, JobRules, check_item_organisation, check_job
from millrace_jobs.job_type_catalog import JobTypeCatalog
from millrace_jobs.job_writer import JobWriter
from millrace_runtime.errors import AlreadyExists, ApiError
from millrace_runtime.identity import Caller
from millrace_runtime.validation import Violations

_Request: TypeAlias = jobs_service_pb2.CreateJobRequest
_Result: TypeAlias = jobs_service_pb2.BatchCreateJobsResult

# Checking this many takes a few milliseconds; other calls get their turn between.
_ITEMS_AT_ONCE = 200


class JobCreator:
    """Makes jobs of requests."""

    def __init__(
        self, catalog: JobTypeCatalog, writer: JobWriter, hints: JobHints, *, max_input_bytes: int
    ) -> None:
        self._catalog = catalog
        self._writer = writer
        self._hints = hints
        self._max_input_bytes = max_input_bytes

    async def create(self, request: _Request, caller: Caller) -> job_pb2.Job:
        """Create one job and return it, or the one that exists for its `request_id`; it is committed then.

        Raises InvalidArgument with all that is wrong, PermissionDenied, and AlreadyExists when the `request_id`
        belongs to a job of another type or input.
        """
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        if org_id:
            caller.require_organisation(org_id)
        job = check_job(request, org_id, await self._rules([request], caller), violations)
        violations.raise_if_any()
        written = await self._writer.write(job)
        if written.created.conflict:
            raise _conflict(written.created)
        if not written.created.already_existed:
            self._hints.jobs_wait({job.type})
        return job_message(written.record)

    async def create_batch(self, org_id: str, requests: Sequence[_Request], caller: Caller) -> list[_Result]:
        """Create jobs in one transaction, and return what became of each request, in the same order.

        `org_id` has been checked, and that `caller` may act in it.
        """
        rules = await self._rules(requests, caller)
        results: list[_Result] = []
        jobs: dict[int, NewJob] = {}
        for place, request in enumerate(requests):
            checked = _check_item(request, org_id, rules)
            if isinstance(checked, NewJob):
                jobs[place] = checked
                results.append(_Result())
            else:
                results.append(_Result(error=checked.to_status()))
            if place % _ITEMS_AT_ONCE == _ITEMS_AT_ONCE - 1:
                await asyncio.sleep(0)
        if jobs:
            created = await self._writer.write_all(list(jobs.values()))
            for place, job in zip(jobs, created, strict=True):
                results[place] = _result(job)
            self._hints.jobs_wait(
                {
                    job.type
                    for job, made in zip(jobs.values(), created, strict=True)
                    if not made.already_existed
                }
            )
        return results

    async def _rules(self, requests: Iterable[_Request], caller: Caller) -> JobRules:
        names = {request.type for request in requests if _is_name(request.type)}
        return JobRules(caller, await self._catalog.find(names), self._max_input_bytes)


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_TYPE_LENGTH and "\0" not in text


def _check_item(request: _Request, org_id: str, rules: JobRules) -> NewJob | ApiError:
    violations = Violations()
    check_item_organisation(request, org_id, violations)
    try:
        job = check_job(request, org_id, rules, violations)
    except ApiError as error:
        return error
    return violations.error() if violations else job


def _result(created: CreatedJob) -> _Result:
    if created.conflict:
        return _Result(error=_conflict(created).to_status())
    return _Result(job_id=format_id("job", created.job_id), already_existed=created.already_existed)


def _conflict(existing: CreatedJob) -> AlreadyExists:
    return AlreadyExists(
        "job",
        format_id("job", existing.job_id),
        "this request_id was used before, for a job of another type or input",
    )
