"""How long finished jobs are kept, and the removal of those that are kept no longer.

A sweep walks through the jobs in the order of their ids, which is that of their creation, and remembers how far it
came. For each length of time that jobs are kept there are a few: the first follows closely behind the age at which jobs
are due that ended soon after their creation, the others later, for those that took longer. One more goes through all
jobs from time to time, for what the others have passed by: jobs that took days, and jobs of types whose rules changed.
So each job is read a few times in its life, however many are kept.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from uuid import UUID

import asyncpg

from millrace_database import retention_statements as statements
from millrace_database.job_options import RetentionRule, TypeOptions

LEAST_RETENTION = timedelta(days=1)
"""No finished job is removed earlier: so long a request id is remembered at least."""

SHARE_OF_TIME = 0.1
"""Sweeps may be at work for this share of the time, all workers together."""

_WHOLE = timedelta()
# How long after its creation a job may end and still be found by the first sweep, the second, the third.
_LAGS = (timedelta(minutes=10), timedelta(hours=3), timedelta(days=1))
_REST = timedelta(minutes=5)
_WHOLE_REST = timedelta(days=7)

_RULES = "SELECT type, options::text, overrides::text FROM job_types"


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long finished jobs are kept: `types` names what differs from the `default`, of which nothing is None."""

    default: RetentionRule
    types: Mapping[str, RetentionRule]

    def sweeps(self) -> list[timedelta]:
        """Return the ages at which jobs are looked at; 0 stands for the sweep of all jobs."""
        return [_WHOLE, *sorted(period + lag for period in self._kept() for lag in _LAGS)]

    def shortest(self) -> timedelta | None:
        """Return the shortest time that any finished job is kept; None: all are kept for ever."""
        return min(self._kept(), default=None)

    def _kept(self) -> set[timedelta]:
        return set(chain.from_iterable(_periods(rule) for rule in (self.default, *self.types.values())))


@dataclass(frozen=True, slots=True)
class Swept:
    """A step of a sweep: how many jobs it looked at, and how many it removed."""

    visited: int
    removed: int
    next_in: float = field(default=0.0, compare=False)
    """The seconds until a sweep goes on."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A batch of jobs: how many were looked at, how many of them are kept no longer, and the last one's id."""

    visited: int
    found: int
    last: UUID


def effective_retention(options: TypeOptions, overrides: TypeOptions) -> RetentionRule:
    """Return how long jobs of a type are kept: as operators have set it, else as its handler says; None: neither."""
    said, set_ = options.retention, overrides.retention
    return RetentionRule(
        completed=_bounded(set_.completed or said.completed),
        failed=_bounded(set_.failed or said.failed),
        cancelled=_bounded(set_.cancelled or said.cancelled),
    )


async def read_retention(conn: asyncpg.Connection, default: RetentionRule) -> Retention:
    """Return what holds now; a type of which nothing is said is kept as the default says."""
    rules = {
        type_: effective_retention(TypeOptions.from_json(options), TypeOptions.from_json(overrides))
        for type_, options, overrides in await conn.fetch(_RULES)
    }
    types = {type_: rule for type_, rule in rules.items() if rule != RetentionRule()}
    return Retention(default, types)


async def add_sweeps(conn: asyncpg.Connection, ages: Collection[timedelta]) -> None:
    """Have sweeps at these ages; those that exist go on from where they are."""
    await conn.execute(statements.ADD_SWEEPS, ages)


async def sweep_jobs(conn: asyncpg.Connection, retention: Retention, *, limit: int) -> Swept | None:
    """Look at up to `limit` jobs, and remove those that are kept no longer, with their attempts.

    To be called in a transaction of its own. Unfinished jobs are never removed. After a step all sweeps pause, so that
    they work for `SHARE_OF_TIME` at most.

    Returns:
        What was done. None: somebody else is at work, or all sweeps pause.

    """
    sweeps = retention.sweeps()
    if await conn.fetchval(statements.TAKE_TURN, sweeps) is None:
        return None
    row = await conn.fetchrow(
        statements.SWEEP,
        sweeps,
        *_arguments(retention),
        limit,
        _REST,
        _WHOLE_REST,
        SHARE_OF_TIME,
    )
    return None if row is None else Swept(**row)


async def remove_expired(
    conn: asyncpg.Connection, retention: Retention, after: UUID, *, limit: int, dry_run: bool
) -> Expired:
    """Look at up to `limit` jobs behind an id, however old, and remove those that are kept no longer, with their attempts.

    Takes no part in the sweeps, and may run beside them. Only those are looked at that were created before anything may be
    due, as their ids tell; fewer than `limit`: there are no more. With `dry_run` they are only counted.
    """
    if (shortest := retention.shortest()) is None:
        return Expired(0, 0, after)
    statement = statements.COUNT_EXPIRED if dry_run else statements.REMOVE_EXPIRED
    (row,) = await conn.fetch(statement, after, *_arguments(retention), limit, shortest)
    return Expired(row["visited"], row["found"], row["last"] or after)


async def count_abandoned_imports(conn: asyncpg.Connection) -> int:
    """Return how many unfinished imports there are whose job is gone."""
    count: int = await conn.fetchval(statements.COUNT_ABANDONED_IMPORTS)
    return count


async def remove_abandoned_import(conn: asyncpg.Connection, *, limit: int) -> int | None:
    """Remove up to `limit` rows of an unfinished import whose job is gone, and the import with the last of them.

    Returns how many rows were removed: fewer than `limit` with the import. None: there is no such import.
    """
    (row,) = await conn.fetch(statements.REMOVE_ABANDONED_IMPORT, limit)
    return row["rows"] if row["imports"] else None


def _arguments(retention: Retention) -> list[object]:
    rules = retention.types
    return [
        list(rules),
        [rule.completed for rule in rules.values()],
        [rule.failed for rule in rules.values()],
        [rule.cancelled for rule in rules.values()],
        retention.default.completed,
        retention.default.failed,
        retention.default.cancelled,
    ]


def _periods(rule: RetentionRule) -> list[timedelta]:
    return [period for period in (rule.completed, rule.failed, rule.cancelled) if period is not None]


def _bounded(period: timedelta | None) -> timedelta | None:
    return None if period is None else max(period, LEAST_RETENTION)
