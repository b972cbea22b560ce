import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from millrace_worker.handler import Handler
from millrace_worker.waiting_line import WaitingLine

if TYPE_CHECKING:
    from millrace_worker.execution import Execution

MAX_CLAIM = 500
"""Jobs claimed by one statement, at most."""

PREFETCH_SECONDS = 0.1
"""Jobs are claimed ahead of free slots, but no more than ended in so short a time just before: they start within
about that time again, and a type whose jobs take longer is not claimed ahead at all."""


class RecentCount:
    """How many events there were in about the last PREFETCH_SECONDS."""

    __slots__ = ("_before", "_clock", "_now", "_started_at")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._before = 0
        self._now = 0

    def add(self) -> None:
        """Count an event."""
        self._roll()
        self._now += 1

    def value(self) -> int:
        """Return the larger of the counts of the present interval and of the one before it."""
        self._roll()
        return max(self._before, self._now)

    def _roll(self) -> None:
        age = self._clock() - self._started_at
        if age < PREFETCH_SECONDS:
            return
        self._before = self._now if age < 2 * PREFETCH_SECONDS else 0
        self._now = 0
        self._started_at += age


class Lane:
    """The jobs of one type on this worker: those that run, and those claimed that wait for a slot."""

    __slots__ = ("ended", "handler", "running", "waiting")

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.running = 0
        self.waiting = WaitingLine()
        self.ended = RecentCount()


class Lanes:
    """Which claimed job starts next, and how many more to claim: within each type's concurrency and the slots."""

    def __init__(self, handlers: Iterable[Handler], slots: int) -> None:
        self._lanes = {handler.type: Lane(handler) for handler in handlers}
        self.types = frozenset(self._lanes)
        self._slots = slots
        self._ended = RecentCount()
        # Lanes with waiting jobs, the one whose turn is next at the front.
        self._turns: deque[Lane] = deque()
        self.running = 0
        self.waiting = 0

    def lane(self, type_name: str) -> Lane:
        """Return the lane of a type that this worker runs."""
        return self._lanes[type_name]

    def wanted(self) -> tuple[dict[str, int], int]:
        """Return how many more jobs to claim of each type, and in all; ({}, 0) when none."""
        limit = _room(self._slots, self.running, self.waiting, self._ended)
        if limit == 0:
            return {}, 0
        capacity = {
            type_name: room
            for type_name, lane in self._lanes.items()
            if (room := _room(lane.handler.concurrency, lane.running, len(lane.waiting), lane.ended))
        }
        return (capacity, limit) if capacity else ({}, 0)

    def places(self, shared: Collection[str]) -> tuple[dict[str, int], int]:
        """Return how many more jobs of each type could run, none claimed ahead, and of the `shared` types in all."""
        places = {
            type_name: max(min(lane.handler.concurrency, self._slots) - lane.running - len(lane.waiting), 0)
            for type_name, lane in self._lanes.items()
        }
        held = sum(self._lanes[name].running + len(self._lanes[name].waiting) for name in shared)
        return places, max(self._slots - held, 0)

    def put(self, execution: "Execution") -> None:
        """Let a claimed job wait for its turn."""
        lane = execution.lane
        if not lane.waiting:
            self._turns.append(lane)
        lane.waiting.put(execution)
        self.waiting += 1

    def start_next(self) -> "Execution | None":
        """Take the job that starts now, in turn among the types; None when no slot is free for any."""
        if self.running >= self._slots:
            return None
        for _ in range(len(self._turns)):
            lane = self._turns[0]
            self._turns.rotate(-1)
            if lane.running < lane.handler.concurrency:
                execution = lane.waiting.take()
                self._taken(lane)
                lane.running += 1
                self.running += 1
                return execution
        return None

    def remove(self, execution: "Execution") -> None:
        """Take a job that waits for its turn out again."""
        execution.lane.waiting.remove(execution)
        self._taken(execution.lane)

    def end(self, execution: "Execution") -> None:
        """Free the slot of a job that was started."""
        execution.lane.running -= 1
        execution.lane.ended.add()
        self.running -= 1
        self._ended.add()

    def claimed_until(self, latest: float) -> "list[Execution]":
        """Return the jobs that wait for their turn and were claimed at this monotonic time or before."""
        return [execution for lane in self._turns for execution in lane.waiting.claimed_until(latest)]

    def _taken(self, lane: Lane) -> None:
        self.waiting -= 1
        if not lane.waiting:
            self._turns.remove(lane)


def _room(places: int, running: int, waiting: int, ended: RecentCount) -> int:
    ahead = min(ended.value(), MAX_CLAIM)
    if waiting * 2 > ahead:
        # Enough is claimed ahead; a claim now would be a small one.
        return 0
    return min(max(places + ahead - running - waiting, 0), MAX_CLAIM)
