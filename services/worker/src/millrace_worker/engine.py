import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from millrace_database import Database
from millrace_database.job_flow import FlowCounter, JobCounts
from millrace_database.system_schedules_repository import announce_system_schedules
from millrace_database.workers_repository import WorkerDetails
from millrace_queue import Freed, Outlook, ServedRanks
from millrace_runtime.settings import Settings
from millrace_worker.claim_loop import ClaimLoop
from millrace_worker.cleaner import Cleaner
from millrace_worker.context import Resources
from millrace_worker.execution import Execution
from millrace_worker.gate_sweeper import GateSweeper
from millrace_worker.heartbeat import Beat, HeartbeatThread
from millrace_worker.hints import Hints
from millrace_worker.lanes import Lanes
from millrace_worker.leases import LeaseKeeper
from millrace_worker.lost_leases import LostLeaseRecorder
from millrace_worker.maintenance import Expirer, LineKeeper, OrphanReturner, Promoter, Rescuer
from millrace_worker.progress import ProgressWriter
from millrace_worker.publication import publish
from millrace_worker.registry import Registry
from millrace_worker.retention_settings import retention_of
from millrace_worker.runner import Runner
from millrace_worker.settlement import SettlementListener, SettlementWriter
from millrace_worker.system_work import SystemWork
from millrace_worker.transient import DATABASE_ERRORS
from millrace_worker.watch import Watch

MAX_BACKLOG = 5_000
"""With so many ends of jobs that are not written yet, no more jobs are claimed."""

# Shares of the grace period, counted from its beginning.
_FINISH_UNTIL = 0.7
_STOP_UNTIL = 0.8
_FLUSH_UNTIL = 0.9
_UNREGISTER_UNTIL = 0.95

_log = structlog.get_logger(__name__)


class Engine:
    """A worker: its parts, and how they are joined. Made in a running event loop."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        registry: Registry,
        resources: Resources,
        *,
        hot: Database,
    ) -> None:
        """Take the pool for duties and, as `hot`, the one that keeps plans, for claims and settlements."""
        resources = replace(resources, jobs_created=self._jobs_created)
        self._settings = settings
        self._database = database
        self._registry = registry
        self._types = frozenset(handler.type for handler in registry)
        self._system_schedules = [schedule.published for schedule in registry.system_schedules]
        self._lanes = Lanes(registry, settings.worker_slots)
        self._progress = ProgressWriter(hot, lost=self._lose, written=self._jobs_changed)
        self._flow = FlowCounter(database.connection)
        self._settlements = SettlementWriter(
            hot,
            self._progress,
            SettlementListener(
                settled=self._forget,
                returned=self._job_returned,
                finished=self._flow.finished,
                created=self._jobs_created,
                freed=self._places_freed,
                lost=self._lease_lost,
                changed=self._settlements_written,
            ),
        )
        self._runner = Runner(
            self._lanes,
            resources,
            slots=settings.worker_slots,
            report=self._progress.report,
            settle=self._settlements.add,
            drop=self._progress.close,
            lost=self._lease_lost,
            slot_freed=self._slot_freed,
        )
        self._gates = GateSweeper(database, let_go=self._jobs_ready)
        served = ServedRanks()
        self._claims = ClaimLoop(
            hot,
            self._lanes,
            self._runner,
            claimant=self._claimant,
            claimed=self._jobs_changed,
            served=served,
            rate_opens=self._gates.expect,
            left_to_others=self._left_to_others,
        )
        self._system = SystemWork(
            hot,
            registry.system_schedules,
            resources,
            claimant=self._claimant,
            served=served,
            rate_opens=self._gates.expect,
            ready=self._system_runs_ready,
        )
        self._lines = LineKeeper(database, served, found=self._entries_found)
        self._orphans = OrphanReturner(database, created=self._jobs_created)
        self._lost_leases = LostLeaseRecorder(database)
        self._heartbeats = HeartbeatThread(
            database.direct_connection,
            interval=settings.heartbeat_seconds,
            lease=settings.lease_seconds,
            on_beat=self._on_beat,
        )
        self._leases = LeaseKeeper(
            database,
            (self._runner, self._system.runner),
            self._heartbeats,
            lease=settings.lease_seconds,
            claim_pending_since=self._claim_pending_since,
            hand_back_orphans=self._orphans.hand_back,
            announce=self._announce,
        )
        self._hints = Hints(database, self._types | self._system.types, received=self._hint_received)
        self._promoter = Promoter(database, promoted=self._jobs_ready)
        self._expirer = Expirer(database, created=self._jobs_created, finished=self._jobs_finished)
        self._rescuer = Rescuer(
            database,
            may_rescue=lambda: self._leases.may_rescue,
            rescued=self._jobs_ready,
            created=self._jobs_created,
            finished=self._jobs_finished,
        )
        self._watch = Watch(
            database, self._types | self._system.types, lease=settings.lease_seconds, seen=self._seen
        )
        self._cleaner = Cleaner(database, retention_of(settings))

    @property
    def worker_id(self) -> UUID | None:
        """The id under which the worker is registered now."""
        return self._leases.worker_id

    @property
    def runner(self) -> Runner:
        """What the worker runs."""
        return self._runner

    def background(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """Return the duties that run for as long as the worker does."""
        return (
            self._heartbeats.run,
            self._leases.run,
            self._runner.run,
            self._progress.run,
            self._settlements.run,
            self._claims.run,
            *self._system.background(),
            self._orphans.run,
            self._lost_leases.run,
            self._lines.run,
            self._gates.run,
            self._promoter.run,
            self._expirer.run,
            self._rescuer.run,
            self._watch.run,
            self._cleaner.run,
            self._flow.run,
            self._hints.run,
        )

    async def started(self, address: str) -> None:
        """Make the job types known, and take the address of the gRPC server, which the worker is registered with."""
        await publish(self._database, self._registry, self._system_schedules)
        self._leases.describe(
            WorkerDetails(
                name=f"{socket.gethostname()}:{os.getpid()}",
                address=address,
                types=sorted(self._types),
                slots=self._settings.worker_slots,
                system_types=[schedule.type for schedule in self._system_schedules],
            )
        )

    async def drain(self) -> None:
        """Claim nothing more, finish what ends soon, hand the rest back, and unregister, within the grace period."""
        begin = asyncio.get_running_loop().time()
        grace = self._settings.shutdown_grace_seconds
        self._heartbeats.drain()
        await _until(
            begin + grace * _FINISH_UNTIL, asyncio.gather(self._claims.close(), self._system.claims.close())
        )
        runners = (self._runner, self._system.runner)
        for runner in runners:
            runner.give_back_waiting()
        await _until(begin + grace * _FINISH_UNTIL, asyncio.gather(*(runner.idle() for runner in runners)))
        for runner in runners:
            runner.give_up()
        await _until(begin + grace * _STOP_UNTIL, asyncio.gather(*(runner.idle() for runner in runners)))
        for runner in runners:
            runner.abandon_all()
        flushed = asyncio.gather(self._settlements.flushed(), self._system.settlements.flushed())
        if await _until(begin + grace * _FLUSH_UNTIL, flushed):
            await _until(begin + grace * _UNREGISTER_UNTIL, self._unregister())
        else:
            _log.error("the ends of jobs could not be written", count=self._settlements.backlog)

    async def _unregister(self) -> None:
        try:
            await self._leases.unregister()
        except DATABASE_ERRORS as error:
            _log.warning("the worker could not be unregistered", error=repr(error))

    def _claimant(self) -> UUID | None:
        if not self._leases.holds or self._settlements.backlog > MAX_BACKLOG:
            return None
        return self._leases.worker_id

    def _on_beat(self, beat: Beat) -> None:
        self._leases.on_beat(beat)

    def _lose(self, execution: Execution) -> None:
        self._runner.lose(execution)

    def _forget(self, execution: Execution) -> None:
        self._runner.forget(execution)

    def _lease_lost(self, execution: Execution) -> None:
        self._lost_leases.add(execution.lease)

    def _slot_freed(self) -> None:
        self._claims.stir()

    def _jobs_changed(self) -> None:
        self._hints.jobs_changed()

    def _settlements_written(self) -> None:
        self._hints.jobs_changed()
        # Claims may have waited for the backlog to shrink.
        self._claims.room_made()

    def _places_freed(self, freed: Freed) -> None:
        self._claims.places_freed(freed)

    def _left_to_others(self, types: Collection[str]) -> None:
        self._hints.jobs_wait(types)

    def _job_returned(self, type_name: str, delay: timedelta) -> None:
        if delay:
            self._promoter.expect(delay)
        else:
            self._jobs_ready({type_name})

    def _jobs_created(self, counts: JobCounts) -> None:
        self._flow.created_many(counts)
        self._jobs_ready({type_ for type_, _ in counts})

    def _jobs_finished(self, counts: JobCounts) -> None:
        """Take what ended without a worker."""
        self._flow.finished_many(counts)
        self._hints.jobs_changed()

    def _jobs_ready(self, types: Collection[str]) -> None:
        self._hints.jobs_wait(types)
        self._hint_claims(types)

    def _hint_claims(self, types: Collection[str]) -> None:
        if not self._types.isdisjoint(types):
            self._claims.hint()
        if not self._system.types.isdisjoint(types):
            self._system.claims.hint()

    def _system_runs_ready(self, types: Collection[str]) -> None:
        self._hints.jobs_wait(types)

    def _entries_found(self) -> None:
        self._claims.hint()
        self._system.claims.hint()

    async def _announce(self, connection: asyncpg.Connection) -> None:
        await announce_system_schedules(connection, self._system_schedules)

    def _claim_pending_since(self) -> float | None:
        pending = (self._claims.pending_since, self._system.claims.pending_since)
        return min((since for since in pending if since is not None), default=None)

    def _seen(self, outlook: Outlook) -> None:
        if outlook.ready:
            self._entries_found()
        if outlook.behind:
            self._lines.search()
        if outlook.lost:
            self._rescuer.rescue()
        self._gates.want(outlook.gates)
        self._promoter.due_in(outlook.due_in)
        self._expirer.due_in(outlook.expires_in)

    def _hint_received(self, types: Collection[str]) -> None:
        # In this order: a claim is what somebody waits for.
        self._hint_claims(types)
        # Speaking of jobs that wait, it may mean one that waits for its time, or not beyond its deadline.
        self._promoter.hint()
        self._expirer.hint()


async def _until(deadline: float, waiting: Awaitable[object]) -> bool:
    """Wait no longer than until the deadline, on the loop's clock; return whether it has ended."""
    try:
        async with asyncio.timeout_at(deadline):
            await waiting
    except TimeoutError:
        return False
    return True
