"""The result that a delivery is about: read when it is sent, from its job and the schedule of that."""

from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from millrace_database.deliveries import Result, get_result
from millrace_database.files_repository import FileRecord
from millrace_database.ids import format_id, parse_id
from millrace_worker import JobContext, JobError
from millrace_worker.handlers.output_file import find_output_file, link_to

_ENDED = ("completed", "failed")


class DeliveryInput(BaseModel):
    """Which result to deliver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str = Field(
        pattern=r"^job_[0-9a-f]{32}$", description="The job whose result goes where its schedule says."
    )


@dataclass(frozen=True, slots=True)
class DeliveredResult:
    """What is delivered: the result, the file that it names, and where that is to be found (empty: there is none)."""

    result: Result
    file: FileRecord | None
    link: str

    @property
    def job_id(self) -> str:
        """The id of the job, as clients see it."""
        return format_id("job", self.result.job_id)

    @property
    def error(self) -> dict[str, str] | None:
        """Why the job failed; None: it did not."""
        if self.result.status != "failed":
            return None
        return {"code": self.result.error_code or "", "message": self.result.error_message or ""}

    def variables(self) -> dict[str, str]:
        """Return what the variables of texts and paths stand for."""
        scheduled_time = self.result.scheduled_time or ""
        error = self.error
        return {
            "schedule_name": self.result.schedule_name,
            "job_id": self.job_id,
            "type": self.result.type,
            "status": self.result.status,
            "scheduled_time": scheduled_time,
            "scheduled_date": scheduled_time[:10],
            "file_name": self.file.name if self.file else "",
            "link": self.link,
            "error": f"{error['code']}: {error['message']}" if error else "",
        }


async def read_delivery(
    context: JobContext[DeliveryInput], method: str
) -> tuple[DeliveredResult, dict[str, Any]]:
    """Return what to deliver, and how the schedule says to do it now by this method: for a webhook with its secret.

    Raises JobError RESULT_GONE or DELIVERY_CHANGED when there is nothing to deliver any more, or not by this method.
    """
    async with context.resources.database.connection() as connection:
        result = await get_result(
            connection,
            context.org_id,
            parse_id("job", context.input.job_id),
            delivery_id=parse_id("job", context.job_id),
        )
    if result is None:
        raise JobError("RESULT_GONE", "the job, or the delivery of its schedule, is gone")
    if result.status not in _ENDED:
        raise JobError("RESULT_GONE", f"the job is {result.status}: it has been tried again meanwhile")
    if result.ended_again:
        raise JobError(
            "RESULT_GONE", "the job has been tried again meanwhile, and its new end has a delivery of its own"
        )
    said = orjson.loads(result.delivery_json).get(method)
    if said is None:
        raise JobError("DELIVERY_CHANGED", f"its schedule does not deliver by {method} any more")
    file = await find_output_file(context, result.file_id) if result.status == "completed" else None
    return DeliveredResult(result, file, link_to(context, file)), said
