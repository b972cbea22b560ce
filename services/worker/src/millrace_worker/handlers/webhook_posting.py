"""What all webhooks have in common: JSON, signed, and what the answers mean."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson

from millrace_worker import JobContext, JobError
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


async def post_signed(
    context: JobContext[Any], url: str, secrets: Sequence[str], payload: Mapping[str, Any]
) -> Answer:
    """Post JSON as Standard Webhooks says, signed with each of the secrets; `webhook-id` is the job's id, with each attempt.

    Raises JobError when there is no answer: DELIVERY_UNUSABLE or PRIVATE_ADDRESS for good, WEBHOOK_UNREACHABLE for now.
    """
    allow_private = context.resources.delivery.allow_private
    if not (allow_private or url.lower().startswith("https://")):
        # It was allowed when the URL was taken.
        raise JobError("DELIVERY_UNUSABLE", "the URL of the webhook does not begin with https://")
    body = orjson.dumps(payload)
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "millrace",
        "webhook-id": context.job_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": _signatures(secrets, context.job_id, timestamp, body),
    }
    try:
        return await post(url, body, headers, allow_private=allow_private)
    except PrivateAddressError as error:
        raise JobError("PRIVATE_ADDRESS", str(error)) from error
    except UnusableUrlError as error:
        raise JobError(
            "DELIVERY_UNUSABLE", "the URL of the webhook names no host that can be looked up"
        ) from error
    except SendingError as error:
        raise JobError("WEBHOOK_UNREACHABLE", str(error), retryable=True) from error


def check_accepted(answer: Answer, *, wait: timedelta) -> None:
    """Raise JobError unless the receiver has accepted: WEBHOOK_REFUSED for good, WEBHOOK_FAILED for now.

    `wait` is the time until the next attempt, unless the receiver asks for longer.
    """
    if 200 <= answer.status < 300:
        return
    message = f"the webhook answered {answer.status}"
    if 300 <= answer.status < 400:
        raise JobError("WEBHOOK_REFUSED", f"{message}: redirects are not followed")
    if 400 <= answer.status < 500 and answer.status not in _TRY_AGAIN:
        raise JobError("WEBHOOK_REFUSED", message)
    raise JobError(
        "WEBHOOK_FAILED", message, retryable=True, retry_after=_retry_after(answer.retry_after, wait)
    )


def _signatures(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    try:
        signatures = [signature(secret, message_id, timestamp, body) for secret in secrets]
    except ValueError:
        signatures = []
    if not signatures:
        # Without a cause, which may quote the secret.
        raise JobError("DELIVERY_UNUSABLE", "the webhook has no secret to sign with") from None
    return " ".join(signatures)


def _retry_after(text: str, wait: timedelta) -> timedelta | None:
    """Return how long to wait when an answer says so in seconds, and longer than is waited anyway; None: as long as that.

    The other form, a date, counts as nothing said.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    asked = min(timedelta(seconds=int(text)), _LONGEST_RETRY_AFTER)
    # Whoever says "in a second" while it is busy for a minute would soon have used up all attempts.
    return asked if asked > wait else None
