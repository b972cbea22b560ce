"""What becomes of system schedules that no worker declares any more."""

import time
from collections.abc import Callable
from datetime import timedelta

import asyncpg
import structlog

from millrace_database import system_schedules_repository as repository

_KEPT = timedelta(days=1)
WATCHED_SECONDS = 3600.0
"""For so long this scheduler must have seen a schedule without a worker before it is removed: after an outage of everything
the schedulers may be there before the workers.
"""

_log = structlog.get_logger(__name__)


class StaleSystemSchedules:
    """Removes schedules that no worker has listed for a day, and none while this scheduler watched."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen_since: dict[str, float] = {}

    async def remove(self, connection: asyncpg.Connection) -> None:
        """Remove what is to be removed now. To be called now and then, on a connection in autocommit mode."""
        now = self._clock()
        stale = await repository.stale_system_schedules(connection, _KEPT)
        self._seen_since = {type_: self._seen_since.get(type_, now) for type_ in stale}
        watched = [type_ for type_, since in self._seen_since.items() if now - since >= WATCHED_SECONDS]
        removed = await repository.remove_stale_system_schedules(connection, watched, _KEPT)
        if removed:
            _log.info("system schedules that no worker declares any more were removed", types=removed)

    def interrupted(self) -> None:
        """Begin to watch anew: the database was away, for the workers too."""
        self._seen_since.clear()
