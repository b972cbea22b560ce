"""The schedules of an organisation."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Unpack

from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.delivery import Delivery, DeliveryMethod, method_value, to_delivery
from millrace_client.recurrence import Frequency, Recurrence, frequency_value, to_recurrence
from millrace_client.schedule import Schedule, read_details, read_schedule
from millrace_client.schedule_policies import CatchUpPolicy, OverlapPolicy, catch_up_value, overlap_value
from millrace_client.schedule_run import Backfill, ScheduleRun, read_backfill, read_run
from millrace_client.schedule_timing import ScheduleTiming, to_timing
from millrace_client.schedule_update import ScheduleChanges, to_update
from millrace_client.values import JsonObject, from_timestamp, to_duration, to_struct, to_timestamp


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
        jitter: timedelta | None = None,
        overlap_policy: OverlapPolicy | str | None = None,
        catch_up_policy: CatchUpPolicy | str | None = None,
        catch_up_window: timedelta | None = None,
        max_runs: int = 0,
        pause_after_failed_runs: int = 0,
        delivery: Delivery | None = None,
        created_by: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Schedule:
        """Create a schedule, which creates a job of `job_type` whenever `recurrence` says so.

        `time_zone` is an IANA name such as "Europe/Paris" (empty: UTC); it does not fire before
        `start_at` nor after `end_at`. Each firing is late by up to `jitter` (whole seconds, at most 24 h).
        `overlap_policy` says what becomes of a time while the job of an earlier one runs (None: ALLOW),
        `catch_up_policy` of times at which no scheduler ran (None: RUN_ONCE); RUN_ALL needs a `catch_up_window`, 1 s to
        30 days. It ends after `max_runs` firings (0: never), and pauses itself when `pause_after_failed_runs` jobs in
        a row have failed (up to 100; 0: never). `delivery` says what is done with results.

        A `request_id` of your own makes a repeated call return the first one's schedule; without one a fresh one is
        used. InvalidArgumentError when a field is wrong or the schedule would never fire.
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
            jitter=None if jitter is None else to_duration(jitter),
            overlap_policy=overlap_value(overlap_policy),
            catch_up_policy=catch_up_value(catch_up_policy),
            catch_up_window=None if catch_up_window is None else to_duration(catch_up_window),
            max_runs=max_runs,
            pause_after_failed_runs=pause_after_failed_runs,
            delivery=to_delivery(delivery),
            created_by=created_by,
            request_id=request_id or uuid.uuid4().hex,
        )
        response = await self._connection.call(self._connection.scheduler.CreateSchedule, request, timeout)
        return read_schedule(response.schedule)

    async def get(self, schedule_id: str, *, timeout: float | None = None) -> Schedule:
        """Return a schedule, with its next times and its last runs.

        NotFoundError when the organisation has no such schedule.
        """
        request = messages.GetScheduleRequest(org_id=self._org_id, schedule_id=schedule_id)
        response = await self._connection.call(self._connection.scheduler.GetSchedule, request, timeout)
        return read_details(response)

    async def update(
        self,
        schedule_id: str,
        *,
        version: int | None = None,
        timeout: float | None = None,
        **changes: Unpack[ScheduleChanges],
    ) -> Schedule:
        """Change what is given of a schedule and leave the rest: see ScheduleChanges. Never repeated by itself.

        A new recurrence, time zone, start or end counts from now on; what was due and not fired yet is dropped.
        AbortedError when `version` is given and somebody has changed the schedule since it had that version.
        """
        request = to_update(self._org_id, schedule_id, version, changes)
        response = await self._connection.call(self._connection.scheduler.UpdateSchedule, request, timeout)
        return read_schedule(response.schedule)

    def list(
        self,
        *,
        job_type: str = "",
        frequency: Frequency | str | None = None,
        active: bool | None = None,
        delivery: DeliveryMethod | str | None = None,
        search: str = "",
        limit: int | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[Schedule]:
        """Yield the schedules, newest first, at most `limit`; pages of `page_size` are fetched as needed.

        Only those of a job type, of a frequency, that will fire (`active`: True) or are paused or have ended (False),
        with a way of delivery, whose name or type contains `search` in any case.
        """

        async def fetch(page_token: str) -> tuple[Iterator[Schedule], str]:
            request = messages.ListSchedulesRequest(
                org_id=self._org_id,
                page_size=page_size if limit is None else min(limit, page_size),
                page_token=page_token,
                type=job_type,
                frequency=frequency_value(frequency),
                active=active,
                delivery=method_value(delivery),
                search=search,
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

    def runs(
        self,
        schedule_id: str,
        *,
        limit: int | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[ScheduleRun]:
        """Yield what became of a schedule's times, the latest first, also of a deleted schedule."""

        async def fetch(page_token: str) -> tuple[Iterator[ScheduleRun], str]:
            request = messages.ListScheduleRunsRequest(
                org_id=self._org_id,
                schedule_id=schedule_id,
                page_size=page_size if limit is None else min(limit, page_size),
                page_token=page_token,
            )
            page = await self._connection.call(self._connection.scheduler.ListScheduleRuns, request, timeout)
            return map(read_run, page.runs), page.next_page_token

        return read_pages(fetch, limit)

    async def preview(
        self,
        subject: str | ScheduleTiming,
        *,
        after: datetime | None = None,
        count: int = 10,
        timeout: float | None = None,
    ) -> tuple[datetime, ...]:
        """Return when a schedule fires next: one that is stored, by its id, or one that need not exist.

        These are the first `count` times (1 to 1,000) after `after` (None: now), fewer when it ends before.
        ValueError for a `count` below 1.
        """
        if count < 1:
            raise ValueError("count must be 1 to 1,000")
        request = messages.PreviewScheduleRequest(
            org_id=self._org_id,
            timing=to_timing(subject) if isinstance(subject, ScheduleTiming) else None,
            after=to_timestamp(after),
            count=count,
        )
        if isinstance(subject, str):
            request.schedule_id = subject
        response = await self._connection.call(self._connection.scheduler.PreviewSchedule, request, timeout)
        return tuple(map(from_timestamp, response.run_times))

    async def backfill(
        self, schedule_id: str, start_time: datetime, end_time: datetime, *, timeout: float | None = None
    ) -> Backfill:
        """Create the jobs of a schedule's past times that have none yet, both ends included.

        Harmless to repeat: there is one job for each time. InvalidArgumentError when the range holds more than 1,000
        times, or ends in the future.
        """
        request = messages.BackfillScheduleRequest(
            org_id=self._org_id,
            schedule_id=schedule_id,
            start_time=to_timestamp(start_time),
            end_time=to_timestamp(end_time),
        )
        response = await self._connection.call(self._connection.scheduler.BackfillSchedule, request, timeout)
        return read_backfill(response)
