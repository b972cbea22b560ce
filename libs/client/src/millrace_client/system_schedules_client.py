"""The schedules that are defined in code."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

from collections.abc import AsyncIterator

from millrace.scheduler.v1 import scheduler_service_pb2 as messages
from millrace_client.connection import Connection
from millrace_client.system_schedule import SystemSchedule, read_system_schedule


class SystemSchedulesClient:
    """Calls to the Scheduler service about the installation's own schedules; they are for operators.

    Every method raises a CallError of the status that the server answered with.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self, *, timeout: float | None = None) -> AsyncIterator[SystemSchedule]:
        """Yield all system schedules."""
        request = messages.ListSystemSchedulesRequest()
        response = await self._connection.call(
            self._connection.scheduler.ListSystemSchedules, request, timeout
        )
        for schedule in response.system_schedules:
            yield read_system_schedule(schedule)

    async def run(self, schedule_type: str, *, timeout: float | None = None) -> str:
        """Run a system schedule now and return the run's id. Never repeated by itself.

        FailedPreconditionError when it runs or waits already, or no live worker knows it.
        """
        request = messages.RunSystemScheduleRequest(type=schedule_type)
        response = await self._connection.call(self._connection.scheduler.RunSystemSchedule, request, timeout)
        return response.run_id
