from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from millrace_database import Database
from millrace_queue import ServedRanks
from millrace_worker.claim_loop import ClaimLoop
from millrace_worker.context import Resources
from millrace_worker.lanes import Lanes
from millrace_worker.runner import Runner
from millrace_worker.system_claiming import claim_system_runs
from millrace_worker.system_execution import SystemExecution
from millrace_worker.system_schedule import SystemSchedule
from millrace_worker.system_settlement import SystemSettlementWriter

SYSTEM_SLOTS = 2
"""How many system runs a worker makes at once, besides its slots for jobs; of one type it is one."""

_POLL_SECONDS = 300.0
"""Runs are hinted at, and seen when the worker looks at the queue; a claim takes four statements."""


def _nothing(*_: object) -> None:
    pass


class SystemWork:
    """The runs of system schedules on this worker: claimed, run and settled beside its jobs, under the same leases."""

    def __init__(
        self,
        database: Database,
        schedules: Iterable[SystemSchedule],
        resources: Resources,
        *,
        claimant: Callable[[], UUID | None],
        served: ServedRanks,
        rate_opens: Callable[[timedelta], None],
        ready: Callable[[Collection[str]], None],
    ) -> None:
        """Take what the claim loop of jobs takes, and what to call with the types of entries that can be claimed again."""
        lanes = Lanes((schedule.handler for schedule in schedules), SYSTEM_SLOTS)
        self.types = lanes.types
        """The types of their entries in the queue."""
        self.settlements = SystemSettlementWriter(
            database, settled=self._forget, returned=lambda type_: ready({type_})
        )
        self.runner = Runner(
            lanes,
            resources,
            slots=SYSTEM_SLOTS,
            report=_nothing,
            settle=self.settlements.add,
            drop=_nothing,
            lost=_nothing,
            slot_freed=self._slot_freed,
            execute=SystemExecution,
        )
        self.claims = ClaimLoop(
            database,
            lanes,
            self.runner,
            claimant=claimant,
            claimed=_nothing,
            served=served,
            rate_opens=rate_opens,
            left_to_others=ready,
            claim=claim_system_runs,
            poll_seconds=_POLL_SECONDS,
        )

    def background(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """Return the duties that run for as long as the worker does."""
        return (self.runner.run, self.settlements.run, self.claims.run)

    def _forget(self, execution: Any) -> None:
        self.runner.forget(execution)

    def _slot_freed(self) -> None:
        self.claims.stir()
