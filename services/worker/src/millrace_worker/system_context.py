from datetime import datetime
from typing import TYPE_CHECKING, Final

import structlog

from millrace_database.system_schedules_repository import SYSTEM_TENANT
from millrace_queue import Lease
from millrace_worker.context import Resources, StopSignal

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class SystemContext:
    """What a system schedule's function gets, an `async def` one and a plain `def` one alike.

    `run_id` ("system_" and 32 hexadecimal digits) names the run in the log, `scheduled_time` is the time it runs for, as the
    schedule names it; `attempt` is more than 1 when a worker was lost with the run. `resources` are the worker's, and
    `lease` is what `millrace_queue.confirm` takes. `log` is a logger whose lines carry run_id, type and attempt.

    When the run must stop, asyncio.CancelledError is raised at the next `await` of an `async def` function. A plain one
    runs in a thread, which cannot be ended from outside: it asks `cancelled`, or calls `raise_if_cancelled`.
    """

    __slots__ = ("_stop", "attempt", "lease", "log", "resources", "run_id", "scheduled_time", "type")

    org_id: Final = SYSTEM_TENANT

    def __init__(
        self,
        *,
        run_id: str,
        type: str,  # noqa: A002 - the field's name everywhere
        scheduled_time: datetime,
        attempt: int,
        lease: Lease,
        resources: Resources,
        stop: StopSignal,
    ) -> None:
        self.run_id = run_id
        self.type = type
        self.scheduled_time = scheduled_time
        self.attempt = attempt
        self.lease = lease
        self.resources = resources
        self.log: FilteringBoundLogger = structlog.get_logger("millrace_worker.handler").bind(
            run_id=run_id, type=type, attempt=attempt
        )
        self._stop = stop

    @property
    def cancelled(self) -> bool:
        """Whether the run must stop. Who has read True is expected to return soon."""
        if self._stop.is_set:
            self._stop.noticed = True
        return self._stop.is_set

    def raise_if_cancelled(self) -> None:
        """Raise JobCancelled when the run must stop."""
        self._stop.raise_if_set()
