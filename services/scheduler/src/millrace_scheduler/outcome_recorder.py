"""Recording what became of firings, those of many together."""

import asyncio
from typing import TypeAlias

import structlog

from millrace_database import firing_repository
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.firing_repository import Outcome, Recorded

FAILURES_UNTIL_PAUSE = 5

_Waiting: TypeAlias = "tuple[Outcome, asyncio.Future[Recorded | None]]"

_log = structlog.get_logger(__name__)


class OutcomeRecorder:
    """Records outcomes: those that come while others are being written share the next statement (group commit)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._writing = asyncio.Lock()

    async def record(self, outcome: Outcome) -> Recorded | None:
        """Record an outcome and return how its schedule is then; None when it is no longer at its time, or gone.

        No schedule may have two outcomes at once. Raises what the database raises.
        """
        recorded: asyncio.Future[Recorded | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, recorded))
        async with self._writing:
            if not recorded.done():
                # The first of those that wait writes for all of them.
                batch, self._waiting = self._waiting, []
                await self._write(batch)
        return await recorded

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            async with self._database.connection() as connection:
                found = await firing_repository.record_outcomes(
                    connection, [outcome for outcome, _ in batch], pause_after=FAILURES_UNTIL_PAUSE
                )
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            if len(batch) > 1 and not is_unavailable(error):
                _log.warning("outcomes are recorded one by one", error=str(error))
                for single in batch:
                    await self._write([single])
                return
            for _, recorded in batch:
                if not recorded.done():
                    recorded.set_exception(error)
            return
        for outcome, recorded in batch:
            if not recorded.done():
                recorded.set_result(found.get(outcome.schedule_id))
