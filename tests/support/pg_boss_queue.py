"""A queue with one of pg-boss's policies, spelled in Millrace and played in the words of pg-boss."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

import millrace_queue
from millrace_database.database import Database
from millrace_database.job_lifecycle import (
    Cancellation,
    ClaimedJob,
    JobFailure,
    Retry,
    cancel_job,
    cancelled_jobs,
    claim_jobs,
    complete_jobs,
    create_jobs,
    fail_jobs,
    retry_job,
)
from millrace_database.job_options import ConcurrencyRule, JobOptions, UniqueRule
from millrace_queue import SweepProgress
from support.queue_samples import disagreements, job_record, new_worker, sample_job, turn_clock

_ORG = "acme"
_RETRY_DELAY = timedelta(hours=1)
_STATES = {"processing": "active", "completed": "completed", "failed": "failed", "cancelled": "cancelled"}

_Words: TypeAlias = Mapping[str, str]
"""What follows the label of a job: `key`, `window`, …"""


def _unique(words: _Words, **rule: Any) -> JobOptions:
    """A key that no `singletonKey` gives is the same for all."""
    return JobOptions(unique=UniqueRule(words.get("key", "-"), **rule))


def _window(words: _Words) -> timedelta:
    return timedelta(seconds=float(words["window"]))


_POLICIES: dict[str, Callable[[_Words], JobOptions]] = {
    "standard": lambda _: JobOptions(),
    "short": lambda words: _unique(words, states="waiting"),
    "singleton": lambda words: _unique(words, states="running"),
    "stately": lambda words: _unique(words, states="each"),
    "exclusive": lambda words: _unique(words, states="unfinished"),
    "key_strict_fifo": lambda words: JobOptions(
        concurrency=ConcurrencyRule(words.get("key", "-"), 1, "block")
    ),
    "throttle": lambda words: _unique(words, window=_window(words)) if "window" in words else JobOptions(),
    "debounce": lambda words: _unique(words, window=_window(words)),
    "upsert": lambda words: _unique(words, states="waiting", on_conflict="replace"),
    "groups": lambda words: JobOptions(
        concurrency=ConcurrencyRule(words["group"], 2) if "group" in words else None
    ),
}


@dataclass
class PgBossQueue:
    """A queue whose jobs have names of one letter; a worker of its own fetches them all."""

    database: Database
    policy: str
    type: str
    worker_id: UUID
    jobs: dict[str, UUID] = field(default_factory=dict)
    active: dict[UUID, ClaimedJob] = field(default_factory=dict)
    sweeps: SweepProgress = field(default_factory=SweepProgress)

    @classmethod
    @asynccontextmanager
    async def opened(cls, database: Database, policy: str, type_: str) -> AsyncIterator["PgBossQueue"]:
        """A queue with a policy, which is a type here; what is left in the end agrees with itself."""
        async with database.connection() as conn:
            worker_id = await new_worker(conn)
        yield cls(database, policy, type_, worker_id)
        async with database.connection() as conn:
            assert await disagreements(conn) == []

    async def play(self, command: str) -> str:
        """Play a command, such as `send a key=x`, and return its outcome in pg-boss's words."""
        verb, *rest = command.split()
        words = dict(word.split("=") for word in rest if "=" in word)
        subject = next((word for word in rest if "=" not in word), "")
        match verb:
            case "send" | "upsert":
                outcome = await self._send(subject, words, _POLICIES[self.policy](words))
            case "debounce":
                outcome = await self._debounce(subject, words)
            case "fetch":
                outcome = await self._fetch(int(subject))
            case "wait":
                outcome = await self._wait(timedelta(seconds=float(subject)))
            case "states":
                outcome = " ".join([f"{name}={await self._state(name)}" for name in sorted(self.jobs)])
            case "delete":
                outcome = await self._unblock(subject, words["key"])
            case _:
                outcome = await self._change(verb, subject)
        return outcome

    async def _send(self, name: str, words: _Words, options: JobOptions) -> str:
        job = sample_job(
            type=self.type,
            org_id=_ORG,
            options=options,
            max_attempts=1 + int(words.get("retries", "2")),
            priority=int(words.get("priority", "0")),
            delay=timedelta(seconds=float(words["delay"])) if "delay" in words else None,
        )
        async with self.database.transaction() as conn:
            (created,) = await create_jobs(conn, [job])
        if created.replaced:
            return f"replaced {self._name(created.job_id)}"
        if created.already_existed:
            return "null"
        self.jobs[name] = created.job_id
        return name

    async def _debounce(self, name: str, words: _Words) -> str:
        """The first one at once, the second one later, and none beside it while it waits."""
        outcome = await self._send(name, words, _POLICIES[self.policy](words))
        if outcome != "null":
            return outcome
        return await self._send(name, {**words, "delay": words["window"]}, _POLICIES["short"](words))

    async def _fetch(self, count: int) -> str:
        async with self.database.connection() as conn:
            await millrace_queue.sweep_gates(conn, self.sweeps)
        async with self.database.transaction() as conn:
            claimed = await claim_jobs(conn, self.worker_id, {self.type: count}, count)
        self.active |= {job.claim.id: job for job in claimed}
        return " ".join(sorted(self._name(job.claim.id) for job in claimed)) or "none"

    async def _change(self, verb: str, name: str) -> str:
        async with self.database.transaction() as conn:
            if verb in ("retry", "resume"):
                outcome: object = (await retry_job(conn, _ORG, self.jobs[name], 1)).outcome
            elif verb == "cancel":
                outcome = (await cancel_job(conn, _ORG, self.jobs[name])).outcome
            else:
                outcome = await self._settle(conn, verb, self.active.pop(self.jobs[name], None))
        if outcome is Retry.KEY_TAKEN:
            return "conflict"
        refused = outcome in (None, Retry.WRONG_STATUS, Cancellation.FINISHED)
        return f"refused {await self._state(name)}" if refused else await self._state(name)

    async def _settle(self, conn: asyncpg.Connection, verb: str, job: ClaimedJob | None) -> object:
        if job is None:
            return None
        match verb:
            case "complete":
                return await complete_jobs(conn, [(job.lease, None)])
            case "fail":
                return await fail_jobs(
                    conn, [JobFailure(job.lease, _RETRY_DELAY, "BROKEN", "", retryable=True)]
                )
            case "stop":
                return await cancelled_jobs(conn, [job.lease])
        raise ValueError(verb)

    async def _unblock(self, name: str, key: str) -> str:
        """What is done here instead of the deletion of a failed job."""
        async with self.database.transaction() as conn:
            blocking = await millrace_queue.unblock_key(conn, self.type, _ORG, key)
        assert blocking == self.jobs[name]
        return await self._state(name)

    async def _wait(self, time: timedelta) -> str:
        async with self.database.transaction() as conn:
            await turn_clock(conn, time)
            await conn.execute("UPDATE queue_throttles SET ends_at = ends_at - $1::interval", time)
            await millrace_queue.promote(conn, limit=100)
        return "-"

    async def _state(self, name: str) -> str:
        job = await job_record(self.database, self.jobs[name])
        if job.status == "pending":
            return "retry" if job.attempt else "created"
        return _STATES.get(job.status, job.status)

    def _name(self, job_id: UUID) -> str:
        return next(name for name, known in self.jobs.items() if known == job_id)
