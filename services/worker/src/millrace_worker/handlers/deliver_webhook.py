from datetime import timedelta
from typing import Any

import orjson
from pydantic import BaseModel

from millrace_database.ids import format_id
from millrace_worker import Backoff, JobContext, job_handler
from millrace_worker.handlers.delivered_result import DeliveredResult, DeliveryInput, read_delivery
from millrace_worker.handlers.output_file import file_fields
from millrace_worker.handlers.webhook_posting import check_accepted, post_signed

_BACKOFF = Backoff(base=timedelta(seconds=5), factor=4, cap=timedelta(hours=1))


class WebhookOutput(BaseModel):
    """The status of the answer."""

    status: int


@job_handler(
    "deliveries:webhook",
    concurrency=20,
    attempts=8,
    timeout=timedelta(minutes=1),
    backoff=_BACKOFF,
    label="Deliver by webhook",
    description="Posts the result of a schedule's job to the URL of its schedule.",
)
async def deliver_webhook(context: JobContext[DeliveryInput]) -> WebhookOutput:
    """Post the result, signed; the same webhook-id with each attempt."""
    delivered, said = await read_delivery(context, "webhook")
    answer = await post_signed(
        context, said.get("url", ""), [secret] if (secret := said.get("secret")) else [], _payload(delivered)
    )
    check_accepted(answer, wait=_BACKOFF.delay(context.attempt))
    return WebhookOutput(status=answer.status)


def _payload(delivered: DeliveredResult) -> dict[str, Any]:
    result = delivered.result
    return {
        "type": f"job.{result.status}",
        "timestamp": result.completed_at,
        "data": {
            "org_id": result.org_id,
            "job_id": delivered.job_id,
            "type": result.type,
            "status": result.status,
            # As it is stored: numbers of any size keep all their digits.
            "output": orjson.Fragment(result.output_json or "{}") if result.status == "completed" else None,
            "error": delivered.error,
            "schedule_id": format_id("schedule", result.schedule_id),
            "schedule_name": result.schedule_name,
            "scheduled_time": result.scheduled_time,
            "file": file_fields(delivered.file, delivered.link),
        },
    }
