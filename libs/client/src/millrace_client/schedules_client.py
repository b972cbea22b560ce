"""The schedules of an organisation."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any

from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.recurrence import Recurrence, to_recurrence
from millrace_client.schedule import Schedule, read_schedule
from millrace_client.values import JsonObject, to_struct, to_timestamp


class SchedulesClient:
    """Calls to the Scheduler service for one organisation.

    Every method raises a CallError of the status that the server answered with. `timeout` is the
    seconds that one call may take, tries included; None: the client's own.
    """

    def __init__(self, connection: Connection, org_id: str) -> None:
        self._connection = connection
        self._org_id = org_id

    async def create(
        self,
        name: str,
        job_type: str,
        recurrence: Recurrence,
        job_input: JsonObject | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        time_zone: str = "",
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        created_by: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Schedule:
        """Create a schedule, which creates a job of `job_type` whenever `recurrence` says so.

        `time_zone` is an IANA name such as "Europe/Paris" (empty: UTC); it does not fire before
        `start_at` nor after `end_at`. A `request_id` of your own makes a repeated call return the first
        one's schedule; without one a fresh one is used. InvalidArgumentError when a field is wrong or
        the schedule would never fire.
        """
        request = messages.CreateScheduleRequest(
            org_id=self._org_id,
            name=name,
            type=job_type,
            input=None if job_input is None else to_struct(job_input),
            metadata=to_struct(metadata) if metadata else None,
            recurrence=to_recurrence(recurrence),
            time_zone=time_zone,
            start_at=to_timestamp(start_at),
            end_at=to_timestamp(end_at),
            created_by=created_by,
            request_id=request_id or uuid.uuid4().hex,
        )
        response = await self._connection.call(self._connection.scheduler.CreateSchedule, request, timeout)
        return read_schedule(response.schedule)

    async def get(self, schedule_id: str, *, timeout: float | None = None) -> Schedule:
        """Return a schedule; NotFoundError when the organisation has no such schedule."""
        request = messages.GetScheduleRequest(org_id=self._org_id, schedule_id=schedule_id)
        response = await self._connection.call(self._connection.scheduler.GetSchedule, request, timeout)
        return read_schedule(response.schedule)

    def list(
        self, *, limit: int | None = None, page_size: int = 100, timeout: float | None = None
    ) -> AsyncIterator[Schedule]:
        """Yield the schedules, newest first, at most `limit`; pages of `page_size` are fetched as needed."""

        async def fetch(page_token: str) -> tuple[Iterator[Schedule], str]:
            request = messages.ListSchedulesRequest(
                org_id=self._org_id,
                page_size=page_size if limit is None else min(limit, page_size),
                page_token=page_token,
            )
            page = await self._connection.call(self._connection.scheduler.ListSchedules, request, timeout)
            return map(read_schedule, page.schedules), page.next_page_token

        return read_pages(fetch, limit)

    async def delete(self, schedule_id: str, *, timeout: float | None = None) -> None:
        """Delete a schedule; the jobs it made stay. Never repeated by itself."""
        request = messages.DeleteScheduleRequest(org_id=self._org_id, schedule_id=schedule_id)
        await self._connection.call(self._connection.scheduler.DeleteSchedule, request, timeout)

    async def pause(self, schedule_id: str, reason: str = "", *, timeout: float | None = None) -> Schedule:
        """Stop a schedule from firing until it is resumed; `reason` is shown beside it."""
        request = messages.PauseScheduleRequest(org_id=self._org_id, schedule_id=schedule_id, reason=reason)
        response = await self._connection.call(self._connection.scheduler.PauseSchedule, request, timeout)
        return read_schedule(response.schedule)

    async def resume(self, schedule_id: str, *, timeout: float | None = None) -> Schedule:
        """Let a paused schedule fire again; what it missed is not made up for.

        FailedPreconditionError when it has no time left to fire at.
        """
        request = messages.ResumeScheduleRequest(org_id=self._org_id, schedule_id=schedule_id)
        response = await self._connection.call(self._connection.scheduler.ResumeSchedule, request, timeout)
        return read_schedule(response.schedule)

    async def run(
        self, schedule_id: str, *, request_id: str | None = None, timeout: float | None = None
    ) -> str:
        """Create the schedule's job now, besides its times, and return the job's id.

        A `request_id` of your own (up to 64 characters) makes a repeated call return the first one's job.
        """
        request = messages.RunScheduleRequest(
            org_id=self._org_id,
            schedule_id=schedule_id,
            request_id=request_id or uuid.uuid4().hex,
        )
        response = await self._connection.call(self._connection.scheduler.RunSchedule, request, timeout)
        return response.job_id
