import asyncio
from collections.abc import Callable, Collection

from millrace_database import Database, is_unavailable
from millrace_database.job_hints import JobHints
from millrace_queue import CHANNEL_READY, Listener

_PING_SECONDS = 30.0
"""A worker that gets no hints looks for jobs every few seconds all the same."""


class Hints:
    """Hints from and to other processes. A lost one only costs time: everybody polls as well."""

    def __init__(
        self, database: Database, types: Collection[str], *, received: Callable[[Collection[str]], None]
    ) -> None:
        """Take the types of this worker, and what to call at a hint with those of them that it speaks of."""
        self._types = frozenset(types)
        self._received = received
        self._sent = JobHints(database)
        self._listener = Listener(
            database.direct_connection,
            {CHANNEL_READY: self._receive},
            is_unavailable=is_unavailable,
            ping_seconds=_PING_SECONDS,
        )

    def jobs_wait(self, types: Collection[str]) -> None:
        """Tell the workers that jobs of these types can be claimed."""
        self._sent.jobs_wait(types)

    def jobs_changed(self) -> None:
        """Tell those who watch jobs that some have changed."""
        self._sent.jobs_changed()

    async def run(self) -> None:
        """Send and receive until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sent.run())
            tasks.create_task(self._listener.run())

    def _receive(self, payload: str) -> None:
        self._received(self._types.intersection(payload.split(",")) if payload else self._types)
