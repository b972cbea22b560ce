"""Schedules that pause themselves because their jobs fail, looked for between their times."""

import asyncio

import structlog

from millrace_database import firing_repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.ids import format_id

_SWEEP_SECONDS = 60.0
_PAGE = 500

_log = structlog.get_logger(__name__)


class FailedRunsWatch:
    """Pauses schedules whose jobs failed so many times in a row as they say, whether they are due or not."""

    def __init__(self, database: Database, *, sweep_seconds: float = _SWEEP_SECONDS) -> None:
        self._database = database
        self._sweep_seconds = sweep_seconds

    async def run(self) -> None:
        """Look through all schedules that ask for it, again and again, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                _log.warning("failed jobs are not looked for without the database", error=str(error))
            await asyncio.sleep(self._sweep_seconds)

    async def sweep(self) -> None:
        """Look through all of them once. Raises what the database raises."""
        last = None
        while True:
            async with self._database.connection() as connection:
                paused, last = await firing_repository.pause_failed_page(connection, last, _PAGE)
            for schedule_id in paused:
                _log.warning(
                    "schedule is paused: its jobs fail", schedule_id=format_id("schedule", schedule_id)
                )
            if last is None:
                return
