"""Ranks of random entries that come in, on the database and by a model of the rule alike."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from millrace_database.connection_url import asyncpg_dsn
from millrace_database.job_lifecycle import create_jobs
from millrace_queue import NewEntry, enqueue, promote
from support.queue_samples import sample_entry, sample_job

_Line: TypeAlias = tuple[str, int]
_Place: TypeAlias = tuple[str, int, str]
_Coming: TypeAlias = list[tuple[_Place, bool]]

_WEIGHTS = {"A": 1, "B": 3, "C": 7}
_EMPTY = "TRUNCATE jobs, queue, queue_lines, queue_types, queue_tenants"
_ADD_WEIGHTS = "INSERT INTO queue_tenants (tenant, weight) SELECT * FROM unnest($1::text[], $2::integer[])"
_ADD_LINE = "INSERT INTO queue_lines (type, priority, start, next_start) VALUES ($1, $2, $3, $4)"
_ADD_READY = """
INSERT INTO queue (id, type, tenant, max_attempts, priority, state, rank)
VALUES (gen_random_uuid(), $1, $2, 4, $3, 'ready', $4)
"""
_ADD_DUE = """
INSERT INTO queue (id, type, tenant, max_attempts, priority, state, rank, run_at)
VALUES ($1, $2, $3, 4, $4, 'scheduled', $5, now() - make_interval(hours => $6))
"""
_RANKS = "SELECT id, CASE WHEN state = 'ready' THEN rank END AS rank FROM queue WHERE id = ANY ($1)"

_PLACES = st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.sampled_from("ABC"))
_RANK = st.integers(0, 9_000_000)
_COMING = st.lists(st.tuples(_PLACES, st.booleans()), min_size=1, max_size=25)


@dataclass(frozen=True)
class _Queue:
    """What is there before: starts of lines, and ranks of ready entries."""

    lines: dict[_Line, tuple[int, int]]
    ready: list[tuple[_Place, int]]

    def next_rank(self, type_: str, priority: int, tenant: str, *, behind_own: bool) -> int:
        """The rank at the head of the line, or a stride behind the tenant's own last one in it."""
        start, next_start = self.lines.get((type_, priority), (0, 0))
        line = [
            (of, rank) for (*its, of), rank in self.ready if (*its,) == (type_, priority) and rank >= start
        ]
        head = max(next_start, min((rank for _, rank in line), default=0))
        own = [rank + _stride(of) for of, rank in line if of == tenant and rank >= head and behind_own]
        return max([head, *own])


_Way: TypeAlias = Callable[[asyncpg.Connection, _Queue, _Coming], Awaitable[None]]
_QUEUES = st.builds(
    lambda lines, ready: _Queue(
        {line: (start, start + more) for line, (start, more) in lines.items()}, ready
    ),
    st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), st.tuples(_RANK, _RANK)),
    st.lists(st.tuples(_PLACES, _RANK), max_size=20),
)


def _stride(tenant: str) -> int:
    return 1_000_000 // _WEIGHTS[tenant]


def _expected(queue: _Queue, coming: Sequence[tuple[UUID, _Place, bool, bool]]) -> dict[UUID, int | None]:
    """The ranks of what comes in, by id, type, priority and tenant, whether it becomes ready, whether it is new."""
    came: dict[tuple[object, ...], int] = {}
    ranks: dict[UUID, int | None] = {}
    for id_, place, is_ready, is_new in coming:
        nth = came[(*place, is_ready, is_new)] = came.get((*place, is_ready, is_new), -1) + 1
        rank = queue.next_rank(*place, behind_own=is_new) + _stride(place[2]) * nth
        ranks[id_] = rank if is_ready else None
    return ranks


async def _start(conn: asyncpg.Connection, queue: _Queue) -> None:
    await conn.execute(_EMPTY)
    await conn.execute(_ADD_WEIGHTS, list(_WEIGHTS), list(_WEIGHTS.values()))
    await conn.executemany(_ADD_LINE, [(*line, *starts) for line, starts in queue.lines.items()])
    await conn.executemany(
        _ADD_READY, [(type_, tenant, priority, rank) for (type_, priority, tenant), rank in queue.ready]
    )


async def _ranks(conn: asyncpg.Connection, expected: dict[UUID, int | None]) -> dict[UUID, int | None]:
    return {row["id"]: row["rank"] for row in await conn.fetch(_RANKS, list(expected))}


def _time(is_ready: bool) -> datetime | None:
    return None if is_ready else datetime.now(UTC) + timedelta(hours=1)


async def _enqueue(conn: asyncpg.Connection, queue: _Queue, coming: _Coming) -> None:
    entries: list[NewEntry] = [
        sample_entry(type_, tenant=tenant, priority=priority, run_at=_time(is_ready))
        for (type_, priority, tenant), is_ready in coming
    ]
    await enqueue(conn, entries)
    expected = _expected(
        queue, [(entry.id, *rest, True) for entry, rest in zip(entries, coming, strict=True)]
    )
    assert await _ranks(conn, expected) == expected


async def _create(conn: asyncpg.Connection, queue: _Queue, coming: _Coming) -> None:
    jobs = [
        sample_job(type=type_, org_id=tenant, priority=priority, run_at=_time(is_ready))
        for (type_, priority, tenant), is_ready in coming
    ]
    await create_jobs(conn, jobs)
    expected = _expected(queue, [(job.job_id, *rest, True) for job, rest in zip(jobs, coming, strict=True)])
    assert await _ranks(conn, expected) == expected


async def _promote(conn: asyncpg.Connection, queue: _Queue, coming: _Coming) -> None:
    entries = [(sample_entry().id, place, True, is_new) for place, is_new in coming]
    await conn.executemany(
        _ADD_DUE,
        [
            (id_, type_, tenant, priority, 0 if is_new else 5, number + 1)
            for number, (id_, (type_, priority, tenant), _, is_new) in enumerate(entries)
        ],
    )
    assert len(await promote(conn, limit=len(entries))) == len(entries)
    expected = _expected(queue, entries[::-1])
    assert await _ranks(conn, expected) == expected


def test_whatever_comes_in_gets_the_rank_of_its_turn(database_url: str) -> None:
    with asyncio.Runner() as runner:
        conn = runner.run(asyncpg.connect(asyncpg_dsn(database_url)))

        async def come_in(way: _Way, queue: _Queue, coming: _Coming) -> None:
            await _start(conn, queue)
            await way(conn, queue, coming)

        @settings(
            max_examples=100,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(way=st.sampled_from([_enqueue, _create, _promote]), queue=_QUEUES, coming=_COMING)
        def compare(way: _Way, queue: _Queue, coming: _Coming) -> None:
            runner.run(come_in(way, queue, coming))

        try:
            compare()
        finally:
            runner.run(conn.close())
