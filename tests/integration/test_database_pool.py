import asyncio
import os
import signal
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import JSON, exc, literal_column, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from millrace_database import Database, UnsupportedServerError, asyncpg_connection, is_unavailable
from millrace_database import database as database_module
from millrace_database.embedded import EmbeddedPostgres
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import NewJob, create_jobs
from support.polling import eventually


def _new_job() -> NewJob:
    return NewJob(
        job_id=new_id(),
        org_id="acme",
        type="test:job",
        input_json="{}",
        metadata_json="{}",
        created_by="",
        max_attempts=1,
    )


async def _count_jobs(database: Database) -> tuple[int, int]:
    async with database.connection() as connection:
        jobs = await connection.fetchval("SELECT count(*) FROM jobs")
        return jobs, await connection.fetchval("SELECT count(*) FROM queue")


async def test_json_comes_and_goes_as_text(database: Database) -> None:
    query = "SELECT $1::text::jsonb AS in_jsonb, $1::text::json AS in_json, $2::jsonb AS sent"
    direct = await database.direct_connection()
    try:
        async with database.connection() as pooled, database.transaction() as in_transaction:
            for connection in (pooled, in_transaction, direct):
                row = await connection.fetchrow(query, '{"b":1.50}', '{"a": 1}')
                assert row is not None
                assert dict(row) == {
                    "in_jsonb": '{"b": 1.50}',
                    "in_json": '{"b":1.50}',
                    "sent": '{"a": 1}',
                }
    finally:
        await direct.close()


async def test_json_comes_as_text_from_a_session_too(database: Database) -> None:
    async with database.session() as session:
        value = await session.execute(select(literal_column("""'{"a": 1.50}'::json""", JSON)))
        assert value.scalar_one() == '{"a": 1.50}'


async def test_a_transaction_commits_as_a_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await _create_job_and_fail(database)
    assert await _count_jobs(database) == (0, 0)

    async with database.transaction() as connection:
        await create_jobs(connection, [_new_job()])
    assert await _count_jobs(database) == (1, 1)


async def _create_job_and_fail(database: Database) -> None:
    async with database.transaction() as connection:
        await create_jobs(connection, [_new_job()])
        raise ZeroDivisionError


async def test_a_failed_statement_leaves_a_healthy_pool(database_url: str) -> None:
    database = await Database.open(database_url, application_name="test", pool_size=1)
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with database.transaction() as connection:
            await connection.fetchval("SELECT 1 / 0")
    async with database.transaction() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await database.close()


async def test_a_session_is_a_transaction(database: Database) -> None:
    with pytest.raises(exc.DBAPIError):
        async with database.session() as session:
            await session.execute(text("CREATE TABLE made AS SELECT 1 / (random() * 0)::int"))
    async with database.session() as session:
        assert (await session.execute(text("SELECT to_regclass('made')"))).scalar_one() is None


async def test_enqueueing_in_the_callers_own_transaction(database: Database, database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        # Nothing was executed yet, so SQLAlchemy has not begun anything by itself.
        await create_jobs(await asyncpg_connection(connection), [_new_job()])
        await connection.rollback()
        assert await _count_jobs(database) == (0, 0)

        await connection.execute(text("CREATE TABLE orders (id int)"))
        await create_jobs(await asyncpg_connection(connection), [_new_job()])
        assert await _count_jobs(database) == (0, 0)
        await connection.commit()
        assert await _count_jobs(database) == (1, 1)
    await engine.dispose()


async def test_enqueueing_needs_a_transaction(database_url: str) -> None:
    engine = create_async_engine(database_url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        with pytest.raises(ValueError, match="autocommit"):
            await asyncpg_connection(connection)
    await engine.dispose()


@pytest.mark.parametrize("scope", ["connection", "transaction"])
async def test_cancelling_in_the_middle_of_a_query_leaves_a_healthy_pool(
    database_url: str, scope: str
) -> None:
    database = await Database.open(database_url, application_name="cancelled", pool_size=1)
    observer = await database.direct_connection()
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'"

    async def sleep_in_the_database() -> None:
        async with getattr(database, scope)() as connection:
            await connection.execute("SELECT pg_sleep(60)")

    for _ in range(3):
        task = asyncio.create_task(sleep_in_the_database())
        await eventually(lambda: observer.fetchval(running))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with database.transaction() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert await observer.fetchval(running) == 0
    await observer.close()
    await database.close()


@pytest.mark.parametrize("keep_plans", [False, True])
async def test_a_statement_whose_caller_has_gone_is_not_executed(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, keep_plans: bool
) -> None:
    monkeypatch.setattr(database_module, "_COMMAND_TIMEOUT_SECONDS", 0.5)
    impatient = await Database.open(database_url, application_name="impatient", keep_plans=keep_plans)
    nobody = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'impatient')"
    async with database.connection() as conn, database.connection() as observer:
        await conn.execute("CREATE TABLE notes (text text)")
        async with conn.transaction():
            await conn.execute("LOCK TABLE notes")
            with pytest.raises(TimeoutError):
                async with impatient.connection() as waiting:
                    await waiting.execute("INSERT INTO notes VALUES ('too late')")
            await eventually(lambda: observer.fetchval(nobody))
        assert await conn.fetchval("SELECT count(*) FROM notes") == 0
    await impatient.close()


async def test_connections_carry_the_name_of_the_application(database_url: str) -> None:
    database = await Database.open(database_url, application_name="millrace jobs")
    async with database.connection() as connection:
        assert await connection.fetchval("SHOW application_name") == "millrace jobs"
    await database.close()


async def test_broken_connections_are_replaced_without_an_error(database: Database) -> None:
    async def backends() -> set[int]:
        everybody_has_one = asyncio.Barrier(5)

        async def backend() -> int:
            async with database.connection() as connection:
                pid: int = await connection.fetchval("SELECT pg_backend_pid()")
                await everybody_has_one.wait()
                return pid

        return set(await asyncio.gather(*(backend() for _ in range(5))))

    before = await backends()
    observer = await database.direct_connection()
    for pid in before:
        await observer.execute("SELECT pg_terminate_backend($1, 10_000)", pid)
    # With this answer the event loop has seen what came before it: the end of the others.
    await observer.fetchval("SELECT 1")
    await observer.close()

    after = await backends()
    assert len(after) == 5
    assert not before & after


async def test_a_full_pool_is_an_error_in_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_COMMAND_TIMEOUT_SECONDS", 0.2)
    database = await Database.open(database_url, application_name="test", pool_size=1)
    async with database.connection():
        with pytest.raises(Exception, match="QueuePool") as refusal:
            await database.ping()
    assert is_unavailable(refusal.value)
    await database.ping()
    await database.close()


async def test_an_old_server_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "OLDEST_SERVER", 99)
    database = await Database.open(database_url, application_name="test")
    with pytest.raises(UnsupportedServerError, match="needs"):
        await database.ping()
    await database.close()


async def test_a_server_that_hangs_is_an_outage_and_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_COMMAND_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT_SECONDS", 0.5)
    server = await asyncio.to_thread(EmbeddedPostgres.start, tmp_path, durable=False)
    database = await Database.open(server.url, application_name="test", pool_size=2)
    await database.ping()
    processes = _server_processes(tmp_path)
    _signal(processes, signal.SIGSTOP)
    try:
        for statement in (_in_a_connection, _in_a_transaction, _in_a_session):
            began = time.monotonic()
            with pytest.raises((Exception,)) as outage:
                await statement(database)
            assert is_unavailable(outage.value)
            assert time.monotonic() - began < 5
    finally:
        _signal(processes, signal.SIGCONT)
    async with asyncio.timeout(10):
        await database.ping()
        async with database.transaction() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    await database.close()
    await asyncio.to_thread(server.stop)


async def _in_a_connection(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("SELECT 1")


async def _in_a_transaction(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("SELECT 1")


async def _in_a_session(database: Database) -> None:
    async with database.session() as session:
        await session.execute(text("SELECT 1"))


async def test_nothing_has_to_be_done_after_a_crash_of_the_server(tmp_path: Path) -> None:
    server = await asyncio.to_thread(EmbeddedPostgres.start, tmp_path, durable=False)
    database = await Database.open(server.url, application_name="test", pool_size=3)
    async with database.connection() as one, database.connection() as two:
        await one.execute("CREATE TABLE kept (id uuid)")
        await two.execute("INSERT INTO kept VALUES ($1)", uuid4())
    crashed = _postmaster(tmp_path)
    os.kill(crashed, signal.SIGKILL)

    async def is_back() -> bool:
        return await _has_row(database) and _postmaster(tmp_path) != crashed

    await eventually(is_back)
    await asyncio.gather(*(database.ping() for _ in range(6)))
    await database.close()
    await asyncio.to_thread(server.stop)


async def _has_row(database: Database) -> bool:
    """Read the one row; False while the server is away, which no other error may say."""
    try:
        async with database.transaction() as connection:
            return bool(await connection.fetchval("SELECT count(*) = 1 FROM kept"))
    except Exception as error:
        if not is_unavailable(error):
            raise
        return False


def _postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres/cluster/postmaster.pid").read_text().splitlines()[0])


def _server_processes(data_dir: Path) -> list[int]:
    parent = _postmaster(data_dir)
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


async def test_a_connection_is_not_left_open_when_its_making_is_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[asyncpg.Connection] = []
    waits = asyncio.Event()

    async def wait(connection: asyncpg.Connection, *_: object) -> None:
        made.append(connection)
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncpg.Connection, "execute", wait)
    making = asyncio.create_task(database.direct_connection())
    await waits.wait()
    making.cancel()
    await asyncio.wait([making])

    assert making.cancelled()
    assert [connection.is_closed() for connection in made] == [True]
