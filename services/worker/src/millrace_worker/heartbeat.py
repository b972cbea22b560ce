import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import structlog

import millrace_queue

_RETRY_SECONDS = 0.5
_LEAST_PAUSE_SECONDS = 0.01
_LEAST_TIMEOUT_SECONDS = 1.0
_STANDSTILL_SHARE = 0.25
"""A thread that acts this share of a lease too late was kept from running."""
_DEAD_AFTER_LEASES = 10
"""A main loop that has not turned for so many leases is not coming back: its worker is better taken for lost."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Beat:
    """An answered heartbeat; `sent_at` is on the monotonic clock."""

    worker_id: UUID
    sent_at: float
    answer: millrace_queue.Heartbeat


class HeartbeatThread:
    """Beats for the worker from a thread of its own, with its own event loop and connection.

    A handler that blocks the main loop therefore does not cost the worker its leases. Its methods are called from
    the main loop, which is also where `on_beat` runs.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        interval: float,
        lease: float,
        on_beat: Callable[[Beat], None],
    ) -> None:
        """Take how to connect, the seconds between beats and those that a lease holds."""
        self._connect = connect
        self._interval = interval
        self._lease = lease
        self._on_beat = on_beat
        self._main = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._main.create_future()
        self._worker_id: UUID | None = None
        self._draining = False
        self._is_stopping = False
        # Times on the monotonic clock. Each is written by one thread only, or by both with times of now.
        self._renewed_at = 0.0
        self._healthy_since = 0.0
        self._main_turned_at = time.monotonic()
        # When the thread is to act next at the latest, and when it found that it had come too late.
        self._due_at = math.inf
        self._stood_still_at = 0.0
        self._is_failing = False
        self._main_is_dead = False
        self._own: asyncio.AbstractEventLoop | None = None
        self._beating: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self._connection: asyncpg.Connection | None = None

    @property
    def renewed_at(self) -> float:
        """When the heartbeat was sent that renewed the leases last."""
        return self._renewed_at

    @property
    def healthy_since(self) -> float:
        """Since when every heartbeat has succeeded."""
        return self._healthy_since

    @property
    def stood_still(self) -> bool:
        """Whether it was the whole process that stood still when the leases were not renewed, and not the database."""
        return self._is_overdue(time.monotonic()) or self._stood_still_at > self._renewed_at

    def begin(self, worker_id: UUID, registered_at: float) -> None:
        """Beat for this worker, which was registered at the given monotonic time."""
        self._renewed_at = registered_at
        self._healthy_since = time.monotonic()
        self._worker_id = worker_id

    def end(self) -> None:
        """Beat for no worker."""
        self._worker_id = None

    def drain(self) -> None:
        """Say with each heartbeat, and with one now, that the worker takes no more jobs."""
        self._draining = True
        self._call_thread(self._nudged.set)

    async def run(self) -> None:
        """Beat until it is cancelled. Raises what ended the thread, if anything did."""
        thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        thread.start()
        try:
            await asyncio.shield(self._ended)
        finally:
            self._is_stopping = True
            self._call_thread(lambda: self._beating and self._beating.cancel())
            await self._ended

    def _call_thread(self, callback: Callable[[], object]) -> None:
        if self._own is not None:
            # Its loop is closed when the thread has ended.
            with contextlib.suppress(RuntimeError):
                self._own.call_soon_threadsafe(callback)

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._beat_until_cancelled())
        except asyncio.CancelledError:
            pass
        except BaseException as raised:  # noqa: BLE001 - it is raised where the thread is awaited
            error = raised
        self._tell_main(self._set_ended, error)

    def _set_ended(self, error: BaseException | None) -> None:
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def _tell_main(self, callback: Callable[..., None], *arguments: object) -> None:
        # The main loop is closed when the process ends without having stopped this thread.
        with contextlib.suppress(RuntimeError):
            self._main.call_soon_threadsafe(callback, *arguments)

    async def _beat_until_cancelled(self) -> None:
        self._beating = asyncio.current_task()
        self._own = asyncio.get_running_loop()
        try:
            # When the thread is stopped before it has set `_own`, it cannot be cancelled, and sees it here.
            while not self._is_stopping:
                await self._turn()
        finally:
            self._drop_connection()

    async def _turn(self) -> None:
        started_at = time.monotonic()
        self._note_time(started_at)
        self._check_main_loop(started_at)
        worker_id = self._worker_id
        if worker_id is not None and not self._main_is_dead:
            await self._beat(worker_id)
        pause = min(self._interval, _RETRY_SECONDS) if self._is_failing else self._interval
        now = time.monotonic()
        self._note_time(now)
        wait = max(started_at + pause - now, _LEAST_PAUSE_SECONDS)
        self._due_at = now + wait
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._nudged.wait()
        self._nudged.clear()

    def _check_main_loop(self, now: float) -> None:
        self._tell_main(self._main_has_turned)
        silence = now - self._main_turned_at
        is_dead = silence > _DEAD_AFTER_LEASES * self._lease
        if is_dead and not self._main_is_dead:
            _log.error("the event loop does not turn; heartbeats stop", seconds=round(silence))
        elif self._main_is_dead and not is_dead:
            _log.warning("the event loop turns again; heartbeats go on")
        self._main_is_dead = is_dead

    def _main_has_turned(self) -> None:
        self._main_turned_at = time.monotonic()

    async def _beat(self, worker_id: UUID) -> None:
        sent_at = time.monotonic()
        timeout = max(self._interval, _LEAST_TIMEOUT_SECONDS)
        self._due_at = sent_at + timeout
        try:
            async with asyncio.timeout(timeout):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                answer = await millrace_queue.heartbeat(self._connection, worker_id, draining=self._draining)
        except Exception as error:  # noqa: BLE001 - for whatever reason: it has failed, and the next one may not
            self._failed(error)
            return
        if self._is_failing or sent_at - self._renewed_at > self._lease:
            self._healthy_since = time.monotonic()
        if self._is_failing:
            self._is_failing = False
            _log.info("heartbeats succeed again")
        if answer.known and worker_id == self._worker_id:
            self._renewed_at = sent_at
        self._tell_main(self._on_beat, Beat(worker_id, sent_at, answer))

    def _failed(self, error: BaseException) -> None:
        self._drop_connection()
        self._healthy_since = time.monotonic()
        if not self._is_failing:
            self._is_failing = True
            _log.warning("heartbeats fail", error=repr(error))

    def _note_time(self, now: float) -> None:
        if self._is_overdue(now):
            self._stood_still_at = now

    def _is_overdue(self, now: float) -> bool:
        return now - self._due_at > self._lease * _STANDSTILL_SHARE

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
