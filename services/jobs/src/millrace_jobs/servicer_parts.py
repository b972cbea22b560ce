"""What the methods of JobsService are made of."""

from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import grpc

from millrace_database.database import Database
from millrace_database.ids import format_id
from millrace_database.job_flow import FlowCounter
from millrace_database.job_hints import JobHints
from millrace_jobs.execution_canceller import ExecutionCanceller
from millrace_jobs.job_creator import JobCreator
from millrace_jobs.job_watcher import JobWatcher
from millrace_runtime.errors import FailedPrecondition, NotFound
from millrace_storage import FileStore

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class ServicerParts:
    """What the methods share."""

    database: Database
    creator: JobCreator
    watcher: JobWatcher
    canceller: ExecutionCanceller
    hints: JobHints
    flow: FlowCounter
    files: FileStore


class ServicerMethods:
    """Some methods of JobsService."""

    def __init__(self, parts: ServicerParts) -> None:
        self._parts = parts


def no_job(job_id: UUID) -> NotFound:
    """Return the error of a job that is not there."""
    return NotFound("job", format_id("job", job_id))


def wrong_status(job_id: UUID, status: str, rule: str) -> FailedPrecondition:
    """Return the error of a job that is in the wrong status; `rule` completes "it is failed, and …"."""
    name = format_id("job", job_id)
    return FailedPrecondition(f"JOB_{status.upper()}", name, f"{name} is {status}, and {rule}")
