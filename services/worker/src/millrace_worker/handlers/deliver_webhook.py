import time
from datetime import timedelta
from typing import Any

import orjson
from pydantic import BaseModel

from millrace_database.ids import format_id
from millrace_worker import Backoff, JobContext, JobError, job_handler
from millrace_worker.handlers.delivered_result import DeliveredResult, DeliveryInput, read_delivery
from millrace_worker.handlers.stored_files import shown_id
from millrace_worker.handlers.webhook_sending import (
    Answer,
    PrivateAddressError,
    SendingError,
    UnusableUrlError,
    post,
    signature,
)

_LONGEST_RETRY_AFTER = timedelta(days=1)
# Request Timeout, Too Early, Too Many Requests.
_TRY_AGAIN = (408, 425, 429)


class WebhookOutput(BaseModel):
    """The status of the answer."""

    status: int


@job_handler(
    "deliveries:webhook",
    concurrency=20,
    attempts=8,
    timeout=timedelta(minutes=1),
    backoff=Backoff(base=timedelta(seconds=5), factor=4, cap=timedelta(hours=1)),
    label="Deliver by webhook",
    description="Posts the result of a schedule's job to the URL of its schedule.",
)
async def deliver_webhook(context: JobContext[DeliveryInput]) -> WebhookOutput:
    """Post the result, signed; the same webhook-id with each attempt."""
    delivered, said = await read_delivery(context, "webhook")
    url, allow_private = said.get("url", ""), context.resources.delivery.allow_private
    if not (allow_private or url.lower().startswith("https://")):
        # It was allowed when the schedule was created.
        raise JobError("DELIVERY_UNUSABLE", "the URL of the webhook does not begin with https://")
    body = orjson.dumps(_payload(delivered))
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "millrace",
        "webhook-id": context.job_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": _signature(said, context.job_id, timestamp, body),
    }
    try:
        answer = await post(url, body, headers, allow_private=allow_private)
    except PrivateAddressError as error:
        raise JobError("PRIVATE_ADDRESS", str(error)) from error
    except UnusableUrlError as error:
        raise JobError(
            "DELIVERY_UNUSABLE", "the URL of the webhook names no host that can be looked up"
        ) from error
    except SendingError as error:
        raise JobError("WEBHOOK_UNREACHABLE", str(error), retryable=True) from error
    if not 200 <= answer.status < 300:
        raise _refusal(answer)
    return WebhookOutput(status=answer.status)


def _signature(said: dict[str, Any], message_id: str, timestamp: int, body: bytes) -> str:
    try:
        return signature(said["secret"], message_id, timestamp, body)
    except (KeyError, ValueError):
        # Without its cause, which may quote the secret.
        raise JobError(
            "DELIVERY_UNUSABLE", "the webhook of the schedule has no secret to sign with"
        ) from None


def _payload(delivered: DeliveredResult) -> dict[str, Any]:
    result, file = delivered.result, delivered.file
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
            "file": file
            and {
                "file_id": shown_id(file.file_id),
                "name": file.name,
                "content_type": file.content_type,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "link": delivered.link,
            },
        },
    }


def _refusal(answer: Answer) -> JobError:
    message = f"the webhook answered {answer.status}"
    if 300 <= answer.status < 400:
        return JobError("WEBHOOK_REFUSED", f"{message}: redirects are not followed")
    if 400 <= answer.status < 500 and answer.status not in _TRY_AGAIN:
        return JobError("WEBHOOK_REFUSED", message)
    return JobError("WEBHOOK_FAILED", message, retryable=True, retry_after=_retry_after(answer.retry_after))


def _retry_after(text: str) -> timedelta | None:
    """Return how long to wait when an answer says so in seconds; the other form, a date, counts as nothing said."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return min(timedelta(seconds=int(text)), _LONGEST_RETRY_AFTER)
