import asyncio

from millrace_database import Database, job_lifecycle
from millrace_queue import Lease
from millrace_worker.transient import DATABASE_ERRORS, Outage

_PAUSE_SECONDS = 1.0


class LostLeaseRecorder:
    """Says of attempts that this worker has lost that it lives: they were recorded as lost with their worker."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._leases: set[Lease] = set()
        self._wanted = asyncio.Event()

    def add(self, lease: Lease) -> None:
        """Have it said of the attempt of this lease, once somebody has taken the job."""
        self._leases.add(lease)
        self._wanted.set()

    async def run(self) -> None:
        """Write until it is cancelled."""
        outage = Outage("record lost leases")
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            leases = sorted(self._leases, key=lambda lease: (lease.id, lease.fence))
            try:
                async with self._database.connection() as connection:
                    left = await job_lifecycle.record_lost_leases(connection, leases)
            except DATABASE_ERRORS as error:
                self._wanted.set()
                await outage.wait(error)
                continue
            outage.is_over()
            self._leases.difference_update(set(leases) - left)
            if self._leases:
                self._wanted.set()
                await asyncio.sleep(_PAUSE_SECONDS)
