import heapq
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millrace_worker.execution import Execution


class WaitingLine:
    """Claimed jobs of one type that wait for a slot: by priority, the organisations of one priority in turn.

    What was claimed ahead for one organisation does not delay what is claimed after it for another.
    """

    __slots__ = ("_heap", "_jobs", "_rounds", "_sequence", "_turn")

    def __init__(self) -> None:
        # By identity, in the order in which they were claimed. What is not in here any more may still be in the heap.
        self._jobs: dict[int, Execution] = {}
        self._heap: list[tuple[int, int, int, int]] = []
        self._rounds: dict[tuple[int, str], int] = {}
        self._turn = 0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, execution: "Execution") -> None:
        """Let a job wait."""
        claim = execution.job.claim
        share = (claim.priority, claim.tenant)
        turn = max(self._turn, self._rounds.get(share, -1) + 1)
        self._rounds[share] = turn
        self._sequence += 1
        self._jobs[id(execution)] = execution
        heapq.heappush(self._heap, (-claim.priority, turn, self._sequence, id(execution)))

    def take(self) -> "Execution":
        """Take the job out whose turn it is. IndexError when none waits."""
        while True:
            _, turn, _, identity = heapq.heappop(self._heap)
            execution = self._jobs.pop(identity, None)
            if execution is not None:
                self._turn = turn
                self._forget_if_empty()
                return execution

    def remove(self, execution: "Execution") -> None:
        """Take a job out that waits. KeyError when it does not."""
        del self._jobs[id(execution)]
        self._forget_if_empty()

    def claimed_until(self, latest: float) -> "Iterator[Execution]":
        """Yield the jobs that were claimed at this monotonic time or before."""
        return takewhile(lambda execution: execution.claimed_at <= latest, self._jobs.values())

    def _forget_if_empty(self) -> None:
        if not self._jobs:
            self._heap.clear()
            self._rounds.clear()
            self._turn = 0
