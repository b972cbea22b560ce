"""The answer to a batch, kept within the size that gRPC clients accept."""

from google.rpc import status_pb2

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from millrace_database.ids import format_id
from millrace_database.job_lifecycle import NewJob
from millrace_jobs.job_messages import job_message
from millrace_jobs.job_preview import job_preview
from millrace_jobs.job_writer import WrittenJob
from millrace_runtime.errors import ApiError, make_status

# What clients accept by default is 4 MiB.
_MOST_BYTES = 4 * 1024 * 1024 - 4096
# What is set aside for each item: enough for its id, or for its shortened error, and the lengths around them.
_BYTES_PER_ITEM = 200
_BYTES_OF_LENGTHS = 16
_SHORT_MESSAGE_BYTES = 80


class BatchAnswer:
    """Puts the results of a batch together, one after the other, to an answer below 4 MiB.

    While there is room, errors are whole and jobs are given; then errors are shortened and jobs are left out.
    """

    def __init__(self, items: int, *, with_jobs: bool) -> None:
        """Take how many results there will be, at most 10,000, and whether jobs are to be given."""
        self._with_jobs = with_jobs
        self.response = jobs_service_pb2.BatchCreateJobsResponse()
        self._room = _MOST_BYTES - items * _BYTES_PER_ITEM

    def add_job(self, written: WrittenJob) -> None:
        """Add the job that there is now for an item."""
        created = written.created
        result = self.response.results.add(
            job_id=format_id("job", created.job_id),
            already_existed=created.already_existed and not created.replaced,
            replaced=created.replaced,
        )
        if self._with_jobs:
            self._add(job_message(written.record()), result)

    def add_unwritten(self, job: NewJob) -> None:
        """Add a job that was checked and not created."""
        result = self.response.results.add()
        if self._with_jobs:
            self._add(job_preview(job), result)

    def add_error(self, error: ApiError) -> None:
        """Add why an item was refused."""
        status = error.to_status()
        beyond = status.ByteSize() + _BYTES_OF_LENGTHS - _BYTES_PER_ITEM
        if beyond > 0 and not self._take(beyond):
            status = _shortened(error)
        self.response.results.add(error=status)

    def _add(self, job: job_pb2.Job, result: jobs_service_pb2.BatchCreateJobsResult) -> None:
        if self._take(job.ByteSize()):
            result.job.CopyFrom(job)

    def _take(self, size: int) -> bool:
        """Take so much of the room that is left; False, and nothing is taken, when there is less."""
        if size > self._room:
            return False
        self._room -= size
        return True


def _shortened(error: ApiError) -> status_pb2.Status:
    message = error.message.encode()
    if len(message) > _SHORT_MESSAGE_BYTES:
        message = message[: _SHORT_MESSAGE_BYTES - 3] + "…".encode()
    return make_status(error.code, message.decode(errors="ignore"), error.details[:1])
