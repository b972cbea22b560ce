import asyncio
from collections.abc import Collection

from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_queue import CHANNEL_READY, Notifier

JOBS_CHANGED_CHANNEL = "millrace_jobs_changed"
"""Where changes of jobs are hinted at, for those who watch them."""


class JobHints:
    """Hints to the other processes: there is something to run, there is something to see.

    Give a hint once its cause is committed. A lost one only costs time: everybody polls as well.
    """

    def __init__(self, database: Database) -> None:
        self._ready = Notifier(database.connection, CHANNEL_READY, is_unavailable=is_unavailable)
        self._changed = Notifier(database.connection, JOBS_CHANGED_CHANNEL, is_unavailable=is_unavailable)

    def jobs_wait(self, types: Collection[str]) -> None:
        """Tell the workers that there are new jobs of these types."""
        if types:
            self._ready.notify(types)

    def any_jobs_wait(self) -> None:
        """Tell the workers that jobs of any type may be started now."""
        self._ready.notify()

    def jobs_changed(self) -> None:
        """Tell those who watch jobs that some have changed."""
        self._changed.notify()

    async def run(self) -> None:
        """Send hints, until cancelled."""
        async with asyncio.TaskGroup() as notifiers:
            notifiers.create_task(self._ready.run())
            notifiers.create_task(self._changed.run())
