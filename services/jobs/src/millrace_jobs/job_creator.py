"""Creating jobs: checks, then one transaction, then a hint to the workers."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from typing import TypeAlias

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database.ids import format_id
from millrace_database.job_flow import FlowCounter
from millrace_database.job_hints import JobHints
from millrace_database.job_lifecycle import CreatedJob, NewJob
from millrace_jobs.batch_answer import BatchAnswer
from millrace_jobs.job_messages import job_message
from millrace_jobs.job_preview import job_preview
from millrace_jobs.job_requests import JobRules, check_item_organisation, check_job
from millrace_jobs.job_type_catalog import MAX_TYPE_LENGTH, JobTypeCatalog
from millrace_jobs.job_writer import JobWriter, WrittenJob
from millrace_runtime.errors import AlreadyExists, ApiError
from millrace_runtime.identity import Caller
from millrace_runtime.validation import Violations

_Request: TypeAlias = jobs_service_pb2.CreateJobRequest

# Checking this many takes a few milliseconds; other calls get their turn between.
_ITEMS_AT_ONCE = 200


class JobCreator:
    """Makes jobs of requests."""

    def __init__(
        self,
        catalog: JobTypeCatalog,
        writer: JobWriter,
        hints: JobHints,
        flow: FlowCounter,
        *,
        max_input_bytes: int,
    ) -> None:
        self._catalog = catalog
        self._writer = writer
        self._hints = hints
        self._flow = flow
        self._max_input_bytes = max_input_bytes

    async def create(self, request: _Request, caller: Caller) -> jobs_service_pb2.CreateJobResponse:
        """Create one job and return it, or the one that exists for its `request_id` or unique key; it is committed then.

        Raises InvalidArgument with all that is wrong, PermissionDenied, and AlreadyExists when the `request_id`
        belongs to a job of another type or input, or the unique key is taken.
        """
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        if org_id:
            caller.require_organisation(org_id)
        job = check_job(request, org_id, await self._rules([request], caller), violations)
        violations.raise_if_any()
        if request.validate_only:
            return jobs_service_pb2.CreateJobResponse(job=job_preview(job))
        (written,) = await self._write([job], and_read=True)
        created = written.created
        if created.conflict or created.key_taken:
            raise _conflict(created)
        return jobs_service_pb2.CreateJobResponse(
            job=job_message(written.record()),
            already_existed=created.already_existed and not created.replaced,
            replaced=created.replaced,
        )

    async def create_batch(
        self, org_id: str, request: jobs_service_pb2.BatchCreateJobsRequest, caller: Caller
    ) -> jobs_service_pb2.BatchCreateJobsResponse:
        """Create jobs in one transaction, and return what became of each, in the same order.

        `org_id` is that of the request and has been checked, and that `caller` may act in it.
        """
        is_trial = all(item.validate_only for item in request.requests)
        checked = await self._check(org_id, request.requests, caller, is_trial=is_trial)
        jobs = [job for job in checked if isinstance(job, NewJob)]
        written: Iterator[WrittenJob | NewJob] = iter(
            jobs if is_trial else await self._write(jobs, and_read=request.return_jobs)
        )
        answer = BatchAnswer(len(checked), with_jobs=request.return_jobs)
        for start in range(0, len(checked), _ITEMS_AT_ONCE):
            for item in checked[start : start + _ITEMS_AT_ONCE]:
                _add_result(answer, item if isinstance(item, ApiError) else next(written))
            await asyncio.sleep(0)
        return answer.response

    async def _check(
        self, org_id: str, requests: Sequence[_Request], caller: Caller, *, is_trial: bool
    ) -> list[NewJob | ApiError]:
        rules = await self._rules(requests, caller)
        checked: list[NewJob | ApiError] = []
        for start in range(0, len(requests), _ITEMS_AT_ONCE):
            checked += [
                _check_item(request, org_id, rules, is_trial=is_trial)
                for request in requests[start : start + _ITEMS_AT_ONCE]
            ]
            await asyncio.sleep(0)
        return checked

    async def _write(self, jobs: Sequence[NewJob], *, and_read: bool) -> list[WrittenJob]:
        if not jobs:
            return []
        written = await self._writer.write(jobs, and_read=and_read)
        made = [one for one in written if one.created.is_new]
        if any(one.created.replaced for one in made):
            self._hints.jobs_changed()
        new = Counter((one.job.type, one.job.org_id) for one in made if not one.created.replaced)
        for (type_, org_id), count in new.items():
            self._flow.created(type_, org_id, count)
        return written

    async def _rules(self, requests: Iterable[_Request], caller: Caller) -> JobRules:
        names = {
            name
            for request in requests
            for name in (request.type, request.dead_letter_type)
            if _is_name(name)
        }
        return JobRules(caller, await self._catalog.find(names), self._max_input_bytes)


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_TYPE_LENGTH and "\0" not in text


def _check_item(request: _Request, org_id: str, rules: JobRules, *, is_trial: bool) -> NewJob | ApiError:
    violations = Violations()
    if request.validate_only and not is_trial:
        violations.add("validate_only", "must be set for all jobs of the batch, or for none")
    check_item_organisation(request, org_id, violations)
    try:
        job = check_job(request, org_id, rules, violations)
    except ApiError as error:
        return error
    return violations.error() if violations else job


def _add_result(answer: BatchAnswer, item: WrittenJob | NewJob | ApiError) -> None:
    if isinstance(item, ApiError):
        answer.add_error(item)
    elif isinstance(item, NewJob):
        answer.add_unwritten(item)
    elif item.created.conflict or item.created.key_taken:
        answer.add_error(_conflict(item.created))
    else:
        answer.add_job(item)


def _conflict(created: CreatedJob) -> AlreadyExists:
    if created.key_taken_until is not None:
        until = created.key_taken_until.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds")
        reason = (
            f"the unique key let this job in, and lets in no other before {until.removesuffix('+00:00')} UTC"
        )
    elif created.key_taken:
        reason = "this job has the unique key"
    else:
        reason = "this request_id was used before, for a job of another type or input"
    return AlreadyExists("job", format_id("job", created.job_id), reason)
