import asyncio
import random
import time
from collections.abc import Callable, Collection

import millrace_queue
from millrace_database import Database
from millrace_queue import Outlook
from millrace_worker.transient import DATABASE_ERRORS, Outage

LOOKS_PER_LEASE = 5
"""A lost worker is noticed a lease and, at most, a fifth of one after its last heartbeat. So late, too, is noticed
whatever the hint of was lost."""

# While an old transaction is open a search from the beginning takes long: no more than this share of the time.
_SEARCH_SHARE = 0.02
_LONGEST_SEARCH_PAUSE_SECONDS = 10.0


class Watch:
    """Looks now and then what there is to do, so that the duties need not each ask the database when there is nothing."""

    def __init__(
        self, database: Database, types: Collection[str], *, lease: float, seen: Callable[[Outlook], None]
    ) -> None:
        """Take the seconds a lease holds, and what to call with what there is to do."""
        self._database = database
        self._types = types
        self._interval = lease / LOOKS_PER_LEASE
        self._seen = seen
        self._search_at = 0.0

    async def run(self) -> None:
        """Look until it is cancelled."""
        outage = Outage("look what there is to do")
        while True:
            try:
                outlook = await self._look()
            except DATABASE_ERRORS as error:
                await outage.wait(error)
                continue
            outage.is_over()
            self._seen(outlook)
            await asyncio.sleep(self._interval * random.uniform(0.85, 1))  # noqa: S311 - jitter is no secret

    async def _look(self) -> Outlook:
        started_at = time.monotonic()
        search = started_at >= self._search_at
        async with self._database.connection() as connection:
            outlook = await millrace_queue.look(connection, self._types, from_beginning=search)
        if search:
            took = time.monotonic() - started_at
            self._search_at = time.monotonic() + min(took / _SEARCH_SHARE, _LONGEST_SEARCH_PAUSE_SECONDS)
        return outlook
