"""Why an attempt of a job ended without a result."""

from dataclasses import dataclass

from millrace.jobs.v1 import job_pb2


@dataclass(frozen=True, slots=True)
class JobError:
    """Why an attempt of a job ended without a result."""

    code: str
    """A stable word for programs, such as "HANDLER_ERROR", "TIMEOUT" or one of the handler's own."""
    message: str
    retryable: bool
    """Whether the same job could succeed if it were tried again."""


def read_error(message: job_pb2.JobError) -> JobError:
    """Turn the contract's message into a JobError."""
    return JobError(code=message.code, message=message.message, retryable=message.retryable)
