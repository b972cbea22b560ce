import asyncio
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

import millrace_queue
from millrace_database import Database, datasets_repository
from millrace_database.datasets_repository import ImportProgress, LeaseLostError, NewRow
from millrace_database.ids import new_id
from millrace_queue import Lease, NewEntry

LEASE = timedelta(seconds=30)


async def _lease(database: Database) -> Lease:
    """The lease of a job that a worker has just claimed."""
    worker_id, job_id = new_id(), new_id()
    async with database.transaction() as connection:
        await millrace_queue.register_worker(connection, worker_id, lease=LEASE, details={})
        await millrace_queue.enqueue(connection, [NewEntry(job_id, "imports:load", "acme", 4)])
        [claim] = await millrace_queue.claim(connection, worker_id, {"imports:load": 1}, 1)
    return claim.lease


async def _begin(
    database: Database, lease: Lease, name: str = "airports"
) -> datasets_repository.DatasetImport:
    async with database.transaction() as connection:
        return await datasets_repository.begin_import(connection, lease, "acme", name)


async def _append(
    database: Database, lease: Lease, dataset_id: UUID, first: int, count: int, *columns: str
) -> None:
    rows = [NewRow(number, f'{{"z": {number}, "a": 1.50}}') for number in range(first, first + count)]
    progress = ImportProgress(first + count - 1, first + count - 1, 0, "[]", columns or ("z", "a"))
    async with database.transaction() as connection:
        await datasets_repository.append_rows(connection, lease, dataset_id, rows, progress)


async def _finish(database: Database, lease: Lease) -> None:
    async with database.transaction() as connection:
        await datasets_repository.finish_import(connection, lease)


async def _read(database: Database, dataset_id: UUID, batch_size: int = 1000) -> list[list[str]]:
    return [
        batch async for batch in datasets_repository.read_rows(database, dataset_id, batch_size=batch_size)
    ]


async def _count(database: Database, dataset_id: UUID) -> int:
    async with database.connection() as connection:
        return await datasets_repository.count_rows(connection, dataset_id)


async def test_a_dataset_is_one_per_name_and_organisation(database: Database) -> None:
    async with database.connection() as connection:
        first = await datasets_repository.get_or_create_dataset(connection, "acme", "airports")
        again = await datasets_repository.get_or_create_dataset(connection, "acme", "airports")
        other = await datasets_repository.get_or_create_dataset(connection, "other", "airports")
        assert again == first
        assert other.dataset_id != first.dataset_id
        assert await datasets_repository.get_dataset(connection, "acme", "airports") == first
        assert await datasets_repository.get_dataset(connection, "acme", "none") is None


async def test_racing_imports_into_a_new_dataset_share_it(database: Database) -> None:
    leases = [await _lease(database) for _ in range(4)]
    begun = await asyncio.gather(*(_begin(database, lease) for lease in leases))
    assert len({import_.dataset_id for import_ in begun}) == 1


async def test_rows_come_back_in_order_as_they_were_written(database: Database) -> None:
    lease = await _lease(database)
    dataset_id = (await _begin(database, lease)).dataset_id
    await _append(database, lease, dataset_id, 1, 3)
    await _append(database, lease, dataset_id, 4, 2)
    await _finish(database, lease)
    batches = await _read(database, dataset_id, batch_size=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [row for batch in batches for row in batch] == [
        f'{{"z": {number}, "a": 1.50}}' for number in range(1, 6)
    ]
    assert await _count(database, dataset_id) == 5


async def test_an_import_goes_on_where_the_last_attempt_came_to(database: Database) -> None:
    lease = await _lease(database)
    begun = await _begin(database, lease)
    assert begun.progress == ImportProgress(columns=[])
    progress = ImportProgress(10, 7, 3, '[{"row": 2}]', ["z", "a"])
    async with database.transaction() as connection:
        rows = [NewRow(number, "{}") for number in range(1, 8)]
        await datasets_repository.append_rows(connection, lease, begun.dataset_id, rows, progress)
    again = await _begin(database, lease)
    assert again.dataset_id == begun.dataset_id
    assert again.progress == progress
    assert not again.completed
    await _finish(database, lease)
    assert (await _begin(database, lease)).completed


async def test_rows_and_progress_are_written_together_or_not_at_all(database: Database) -> None:
    lease = await _lease(database)
    dataset_id = (await _begin(database, lease)).dataset_id
    await _append(database, lease, dataset_id, 1, 3)
    with pytest.raises(asyncpg.UniqueViolationError):
        await _append(database, lease, dataset_id, 3, 2)
    assert (await _begin(database, lease)).progress.rows_read == 3
    await _finish(database, lease)
    assert await _count(database, dataset_id) == 3


async def test_a_worker_that_lost_its_job_writes_nothing(database: Database) -> None:
    lost = await _lease(database)
    dataset_id = (await _begin(database, lost)).dataset_id
    await _append(database, lost, dataset_id, 1, 3)
    async with database.transaction() as connection:
        await millrace_queue.hand_back(connection, [lost])
        worker_id = new_id()
        await millrace_queue.register_worker(connection, worker_id, lease=LEASE, details={})
        [claim] = await millrace_queue.claim(connection, worker_id, {"imports:load": 1}, 1)

    for write in (_append(database, lost, dataset_id, 4, 3), _begin(database, lost), _finish(database, lost)):
        with pytest.raises(LeaseLostError):
            await write
    assert (await _begin(database, claim.lease)).progress.rows_read == 3
    await _append(database, claim.lease, dataset_id, 4, 1)
    await _finish(database, claim.lease)
    assert await _count(database, dataset_id) == 4


async def test_nobody_takes_the_job_while_a_batch_is_being_written(database: Database) -> None:
    lease = await _lease(database)
    dataset_id = (await _begin(database, lease)).dataset_id

    async def hand_back() -> None:
        async with database.transaction() as connection:
            await millrace_queue.hand_back(connection, [lease])

    async with database.transaction() as connection:
        await datasets_repository.append_rows(
            connection, lease, dataset_id, [NewRow(1, "{}")], ImportProgress(1, 1)
        )
        handing_back = asyncio.create_task(hand_back())
        done, _ = await asyncio.wait([handing_back], timeout=0.2)
        assert not done
        async with database.connection() as other:
            [held] = (await millrace_queue.heartbeat(other, await _worker(database), draining=False)).held
            assert held.lease == lease
    await handing_back
    with pytest.raises(LeaseLostError):
        await _append(database, lease, dataset_id, 2, 1)


async def _worker(database: Database) -> UUID:
    async with database.connection() as connection:
        worker_id: UUID = await connection.fetchval("SELECT worker_id FROM queue_workers")
        return worker_id


async def test_the_columns_are_those_of_all_imports_in_their_order(database: Database) -> None:
    first, second = await _lease(database), await _lease(database)
    dataset_id = (await _begin(database, first)).dataset_id
    await _begin(database, second)
    await _append(database, first, dataset_id, 1, 1, "name", "city", "altitude")
    await _append(database, second, dataset_id, 1, 1, "altitude", "country", "name")
    await _finish(database, first)
    await _finish(database, second)
    async with database.connection() as connection:
        columns = await datasets_repository.list_columns(connection, dataset_id)
    assert columns == ["name", "city", "altitude", "country"]


async def test_half_an_import_is_never_seen(database: Database) -> None:
    finished, unfinished = await _lease(database), await _lease(database)
    dataset_id = (await _begin(database, finished)).dataset_id
    await _begin(database, unfinished)
    await _append(database, finished, dataset_id, 1, 3, "name")
    await _append(database, unfinished, dataset_id, 1, 5, "country")
    await _finish(database, finished)

    reading = datasets_repository.read_rows(database, dataset_id, batch_size=2)
    first = await anext(reading)
    assert await _count(database, dataset_id) == 3
    async with database.connection() as connection:
        assert await datasets_repository.list_columns(connection, dataset_id) == ["name"]

    await _finish(database, unfinished)
    assert await _count(database, dataset_id) == 8
    assert sum(map(len, await _read(database, dataset_id))) == 8
    rest = [row async for batch in reading for row in batch]
    assert len(first + rest) == 3


async def test_a_batch_needs_an_import(database: Database) -> None:
    lease = await _lease(database)
    async with database.connection() as connection:
        dataset = await datasets_repository.get_or_create_dataset(connection, "acme", "x")
    with pytest.raises(ValueError, match="begin_import"):
        await _append(database, lease, dataset.dataset_id, 1, 1)
    assert await _read(database, dataset.dataset_id) == []
