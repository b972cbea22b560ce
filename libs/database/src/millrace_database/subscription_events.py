"""Events: jobs that post to the subscriptions of an organisation what has happened."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from millrace_database import subscription_event_statements as statements
from millrace_database.deliveries import EVENT_TYPE
from millrace_database.follow_up_jobs import enqueue_follow_up_jobs
from millrace_database.ids import format_id, new_id
from millrace_database.job_flow import JobCounts
from millrace_database.job_types_repository import DEFAULT_MAX_ATTEMPTS

SUBSCRIPTION_TEST = "subscription.test"
"""The event that is sent because somebody wants to see whether one arrives."""
SUBSCRIPTION_DISABLED = "subscription.disabled"
"""The event that another subscription of the organisation was disabled."""


class Subscribed(Protocol):
    """What is to be known of a subscription that is told something."""

    @property
    def subscription_id(self) -> UUID:
        """Its id."""
        ...

    @property
    def org_id(self) -> str:
        """Its organisation."""
        ...

    @property
    def created_by(self) -> str:
        """Who has created it."""
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """A job to be made that tells something about a subscription, or to it.

    Attributes:
        org_id: the organisation.
        type: the type of the job.
        subscription_id: the subscription.
        event: what the job tells.
        created_by: who is said to have created the job.
        data: what its input says beyond that.

    """

    org_id: str
    type: str
    subscription_id: UUID
    event: str
    created_by: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receiver:
    """A subscription as whoever sends it an event needs it.

    Attributes:
        url: where to.
        version: which version of it that is.
        state: of SUBSCRIPTION_STATES.
        disabled_reason: why it is disabled.
        notify_emails: whom to tell that it is.
        secret: what is signed with.
        previous_secret: what is signed with as well; None: nothing.
        event_at: when the job that asks was created; None: there is no such job.

    """

    url: str
    version: int
    state: str
    disabled_reason: str
    notify_emails: Sequence[str]
    secret: str = field(repr=False)
    previous_secret: str | None = field(repr=False)
    event_at: datetime | None

    @property
    def secrets(self) -> list[str]:
        """All secrets that sign, the current one first."""
        return [secret for secret in (self.secret, self.previous_secret) if secret is not None]


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that an event is about, as the event tells it. `output_json` and `metadata_json` are JSON text.

    `file_id` is what its output says of that, as text, which may be anything. `ended_again`: it has been retried and
    has ended again since the event.
    """

    job_id: UUID
    org_id: str
    type: str
    status: str
    output_json: str | None
    file_id: str | None
    metadata_json: str
    error_code: str | None
    error_message: str | None
    error_retryable: bool | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    attempt: int
    schedule_id: UUID | None
    ended_again: bool


async def create_events(conn: asyncpg.Connection, ended: Sequence[asyncpg.Record]) -> JobCounts:
    """Create the events of jobs, in the transaction in which they ended.

    Args:
        conn: the connection of that transaction.
        ended: what the statement returned that ended them: `job_id`, and as `subscribers` the subscriptions that want to know.

    Returns:
        How many were created, by type and organisation.

    """
    events = [(row["job_id"], subscriber) for row in ended for subscriber in row["subscribers"]]
    if not events:
        return Counter()
    rows = await conn.fetch(
        statements.CREATE_EVENTS,
        [new_id() for _ in events],
        [job_id for job_id, _ in events],
        [subscriber for _, subscriber in events],
        DEFAULT_MAX_ATTEMPTS,
    )
    return await enqueue_follow_up_jobs(conn, rows)


async def create_test_event(conn: asyncpg.Connection, subscription: Subscribed) -> UUID:
    """Create a job that posts a SUBSCRIPTION_TEST to a subscription, in the caller's transaction; return the job's id."""
    notice = Notice(
        subscription.org_id,
        EVENT_TYPE,
        subscription.subscription_id,
        SUBSCRIPTION_TEST,
        subscription.created_by,
    )
    (job_id,), _ = await create_notices(conn, [notice])
    return job_id


async def create_notices(conn: asyncpg.Connection, notices: Sequence[Notice]) -> tuple[list[UUID], JobCounts]:
    """Create jobs that tell something, in the caller's transaction.

    Returns:
        Their ids, in the same order, and how many they are, by type and organisation.

    """
    ids = [new_id() for _ in notices]
    labels = [
        {"subscription_id": format_id("subscription", notice.subscription_id), "event": notice.event}
        for notice in notices
    ]
    rows = await conn.fetch(
        statements.CREATE_NOTICES,
        ids,
        [notice.org_id for notice in notices],
        [notice.type for notice in notices],
        [notice.subscription_id for notice in notices],
        [
            json.dumps({**label, **({"data": notice.data} if notice.data else {})})
            for label, notice in zip(labels, notices, strict=True)
        ],
        [json.dumps(label) for label in labels],
        [notice.created_by for notice in notices],
        DEFAULT_MAX_ATTEMPTS,
    )
    return ids, await enqueue_follow_up_jobs(conn, rows)


async def get_receiver(
    conn: asyncpg.Connection, org_id: str, subscription_id: UUID, *, delivery_id: UUID
) -> Receiver | None:
    """Return a subscription of an organisation for the job that sends it something; None: there is none."""
    row = await conn.fetchrow(statements.GET_RECEIVER, subscription_id, org_id, delivery_id)
    return None if row is None else Receiver(**row)


async def get_ended_job(
    conn: asyncpg.Connection, org_id: str, job_id: UUID, *, event_at: datetime | None
) -> EndedJob | None:
    """Return the job of an organisation that an event of that time is about; None: there is none."""
    row = await conn.fetchrow(statements.GET_ENDED_JOB, job_id, org_id, event_at)
    return None if row is None else EndedJob(**row)
