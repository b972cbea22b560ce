import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import CancelOutcome, NewEntry, cancel, claim, enqueue, promote, seconds_until_due
from support.queue_samples import PLENTY, claimed_entries, make_due, new_worker, sample_entry


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def test_entries_exist_exactly_if_the_callers_transaction_commits(database: Database) -> None:
    entry = sample_entry("a")
    async with database.connection() as conn, database.connection() as other:
        worker_id = await new_worker(other)
        transaction = conn.transaction()
        await transaction.start()
        await enqueue(conn, [entry])
        assert await claim(other, worker_id, {"a": 1}, 1) == []
        await transaction.rollback()
        assert await claim(other, worker_id, {"a": 1}, 1) == []

        async with conn.transaction():
            await enqueue(conn, [entry])
        assert [claimed.id for claimed in await claim(other, worker_id, {"a": 1}, 1)] == [entry.id]


async def test_an_entry_cannot_be_put_in_twice(database: Database) -> None:
    entry = sample_entry()
    async with database.connection() as conn:
        await enqueue(conn, [entry])
        with pytest.raises(asyncpg.UniqueViolationError):
            await enqueue(conn, [entry])


async def test_an_entry_without_an_attempt_left_is_refused(database: Database) -> None:
    async with database.connection() as conn:
        with pytest.raises(asyncpg.CheckViolationError):
            await enqueue(conn, [NewEntry(new_id(), "a", "acme", max_attempts=2, attempt=2)])


async def test_due_entries_become_ready_in_the_order_of_their_times(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        last, first, second = (
            sample_entry(type_, run_at=_in(wait)) for type_, wait in (("c", 300), ("a", 100), ("b", 200))
        )
        await enqueue(conn, [last, first, second, sample_entry("a", run_at=_in(7200))])
        assert await promote(conn, limit=PLENTY) == []

        await conn.execute("UPDATE queue SET run_at = run_at - interval '1 hour'")

        assert await promote(conn, limit=1) == ["a"]
        assert await promote(conn, limit=1) == ["b"]
        assert await promote(conn, limit=PLENTY) == ["c"]
        assert await promote(conn, limit=PLENTY) == []
        claimed = await claim(conn, worker_id, {"a": 2, "b": 2, "c": 2}, PLENTY)
        assert [entry.id for entry in claimed] == [last.id, first.id, second.id]


async def test_a_promoter_passes_over_what_another_is_just_promoting(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [sample_entry(type_, run_at=_in(3600)) for type_ in ("a", "b")])
        await conn.execute(
            "UPDATE queue SET run_at = CASE type WHEN 'a' THEN now() - interval '1 h' ELSE now() END"
        )

    async with database.transaction() as one, database.connection() as other:
        assert await promote(one, limit=1) == ["a"]
        assert await promote(other, limit=PLENTY) == ["b"]


async def test_two_promoters_share_the_due_entries(database: Database) -> None:
    async with database.connection() as conn:
        await enqueue(conn, [sample_entry(run_at=_in(3600)) for _ in range(100)])
        await make_due(conn)
    promoted: list[str] = []

    async def promote_all() -> None:
        async with database.connection() as conn:
            while types := await promote(conn, limit=9):
                promoted.extend(types)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(promote_all())

    assert len(promoted) == 100


async def test_tells_how_long_to_sleep_until_the_next_entry_is_due(database: Database) -> None:
    async with database.transaction() as conn:
        assert await seconds_until_due(conn) is None
        await enqueue(conn, [sample_entry()])
        assert await seconds_until_due(conn) is None

        now = await conn.fetchval("SELECT now()")
        await enqueue(conn, [sample_entry(run_at=now + timedelta(seconds=wait)) for wait in (90, 60.5)])

        assert await seconds_until_due(conn) == 60.5
        await make_due(conn)
        assert await seconds_until_due(conn) == 0


async def test_waiting_entries_are_removed_and_running_ones_asked_to_stop(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (running,) = await claimed_entries(conn, worker_id, sample_entry("b"))
        ready, scheduled, unknown = sample_entry("a"), sample_entry("a", run_at=_in(3600)), new_id()
        await enqueue(conn, [ready, scheduled])
        asked = CancelOutcome(
            "b", "acme", removed=False, worker_id=worker_id, worker_details={"address": "127.0.0.1:50053"}
        )

        assert await cancel(conn, [unknown, running.id, scheduled.id, ready.id]) == {
            ready.id: CancelOutcome("a", "acme", removed=True),
            scheduled.id: CancelOutcome("a", "acme", removed=True),
            running.id: asked,
        }
        assert await cancel(conn, [running.id, ready.id]) == {running.id: asked}
        assert await claim(conn, worker_id, {"a": 1}, 1) == []


async def test_a_cancelled_worker_without_registration_has_no_details(database: Database) -> None:
    async with database.connection() as conn:
        worker_id = await new_worker(conn)
        (running,) = await claimed_entries(conn, worker_id, sample_entry())
        await conn.execute("DELETE FROM queue_workers")

        outcomes = await cancel(conn, [running.id])

    assert outcomes == {
        running.id: CancelOutcome("reports:generate", "acme", removed=False, worker_id=worker_id)
    }
