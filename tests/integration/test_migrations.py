import asyncio
import re
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from typer import Typer
from typer.testing import CliRunner

from millrace_database import (
    Database,
    UnsupportedServerError,
    file_tables,
    is_unavailable,
    schedule_tables,
    subscription_tables,
)
from millrace_database import migrate as migrate_module
from millrace_database.connection_url import asyncpg_dsn, with_database
from millrace_database.metadata import metadata
from millrace_database.migrate import alembic_config, migrate
from millrace_database.migrate_command import migrate as migrate_command
from millrace_database.schema_version import VERSION_TABLE, latest_version, schema_is_current
from millrace_database.tables import FAILED_STATUSES, FINAL_STATUSES, JOB_STATUSES, jobs
from millrace_queue.schema import VERSION_1, VERSION_2
from millrace_queue.schema_version_3 import VERSION_3
from millrace_queue.schema_version_4 import VERSION_4

_READ_VERSION = "SELECT version_num FROM millrace_schema_version"
_SET_VERSION = "UPDATE millrace_schema_version SET version_num = '9999'"
_COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default, is_generated, generation_expression
FROM information_schema.columns WHERE table_schema = 'public'
"""
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""
_INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
_OPTIONS = (
    "SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
)


@pytest.fixture
async def empty_url(postgres_url: str) -> AsyncIterator[str]:
    name = f"empty_{uuid4().hex}"
    connection = await asyncpg.connect(asyncpg_dsn(postgres_url))
    await connection.execute(f"CREATE DATABASE {name}")
    yield with_database(postgres_url, name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def _shape(url: str) -> dict[str, set[tuple[object, ...]]]:
    connection = await asyncpg.connect(asyncpg_dsn(url))
    try:
        return {
            query: {
                tuple(str(value) for value in row)
                for row in await connection.fetch(query)
                if VERSION_TABLE not in tuple(row)
            }
            for query in (_COLUMNS, _CONSTRAINTS, _INDEXES, _OPTIONS)
        }
    finally:
        await connection.close()


async def test_the_migrations_make_what_the_tables_say(empty_url: str, database_url: str) -> None:
    def create(connection: Connection) -> None:
        for statement in (*VERSION_1, *VERSION_2, *VERSION_3, *VERSION_4):
            connection.execute(text(statement))
        metadata.create_all(connection)

    assert jobs.metadata is schedule_tables.scheduled_jobs.metadata is metadata
    assert file_tables.files.metadata is subscription_tables.job_subscriptions.metadata is metadata
    database = await Database.open(empty_url, application_name="test")
    async with database.session() as session:
        await session.run_sync(create)
    await database.close()

    expected, migrated = await _shape(empty_url), await _shape(database_url)
    for query in expected:
        assert migrated[query] == expected[query]
    assert len(expected[_COLUMNS]) > 50


async def test_several_may_migrate_at_the_same_time(empty_url: str) -> None:
    assert not await schema_is_current(empty_url)
    await asyncio.gather(*(migrate(empty_url) for _ in range(4)))
    assert await schema_is_current(empty_url)
    database = await Database.open(empty_url, application_name="test")
    async with database.connection() as connection:
        rows = await connection.fetch(_READ_VERSION)
    await database.close()
    assert [row["version_num"] for row in rows] == [latest_version()]


async def _upgrade(url: str, version: str) -> None:
    def upgrade(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, version)

    database = await Database.open(url, application_name="test")
    async with database.session() as session:
        await session.run_sync(upgrade)
    await database.close()


async def _until_migration_waits(connection: asyncpg.Connection) -> None:
    waits = """
        SELECT count(*) > 0 FROM pg_stat_activity
        WHERE application_name = 'millrace migrate' AND datname = current_database()
            AND cardinality(pg_blocking_pids(pid)) > 0
    """
    async with asyncio.timeout(10):
        while not await connection.fetchval(waits):
            await asyncio.sleep(0.005)


_OLD_JOB = "INSERT INTO jobs (job_id, org_id, type, max_attempts) VALUES ($1, 'acme', 'a', 4)"
_OLD_ENTRY = "INSERT INTO queue (id, type, tenant, max_attempts) VALUES ($1, 'a', 'acme', 4)"


@pytest.mark.parametrize("statements", [(_OLD_JOB, _OLD_ENTRY), (_OLD_ENTRY, _OLD_JOB)])
async def test_a_service_at_work_and_a_migration_do_not_stop_each_other(
    empty_url: str, statements: tuple[str, str]
) -> None:
    await _upgrade(empty_url, "0001")
    database = await Database.open(empty_url, application_name="test")
    job_id = uuid4()
    async with (
        database.connection() as observer,
        asyncio.TaskGroup() as tasks,
        database.transaction() as connection,
    ):
        await connection.execute(statements[0], job_id)
        tasks.create_task(migrate(empty_url))
        await _until_migration_waits(observer)
        await connection.execute(statements[1], job_id)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT job_id FROM jobs JOIN queue ON id = job_id") == job_id
    await database.close()
    assert await schema_is_current(empty_url)


async def test_migrating_keeps_what_jobs_have_come_to(empty_url: str) -> None:
    await _upgrade(empty_url, "0001")
    database = await Database.open(empty_url, application_name="test")
    async with database.connection() as connection:
        for status in JOB_STATUSES:
            await connection.execute(
                "INSERT INTO jobs (job_id, org_id, type, max_attempts, status, completed_at)"
                " VALUES ($1, 'acme', 'a', 4, $2, CASE WHEN $3 THEN now() END)",
                uuid4(),
                status,
                status in FINAL_STATUSES,
            )
        await migrate(empty_url)
        rows = await connection.fetch("SELECT status, outcome FROM jobs")
    await database.close()
    assert {row["status"]: row["outcome"] for row in rows} == {
        status: status if status in FAILED_STATUSES else None for status in JOB_STATUSES
    }


async def test_migrating_again_changes_nothing(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO datasets (dataset_id, org_id, name) VALUES ($1, 'acme', 'x')", uuid4()
        )
    before = await _shape(database.url)
    await migrate(database.url)
    assert await _shape(database.url) == before
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM datasets") == 1


async def test_a_migration_that_fails_leaves_nothing(empty_url: str) -> None:
    database = await Database.open(empty_url, application_name="test")
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE datasets (in_the_way int)")
        with pytest.raises(Exception, match="datasets"):
            await migrate(empty_url)
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await database.close()
    assert [row["tablename"] for row in tables] == ["datasets"]


async def test_the_schema_of_a_later_release_is_left_alone(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(_SET_VERSION)
    assert await schema_is_current(database.url)
    await migrate(database.url)
    async with database.connection() as connection:
        assert await connection.fetchval(_READ_VERSION) == "9999"


async def test_another_alembic_history_in_the_database_is_not_touched(empty_url: str) -> None:
    database = await Database.open(empty_url, application_name="test")
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE alembic_version (version_num text)")
        await connection.execute("INSERT INTO alembic_version VALUES ('theirs')")
        await migrate(empty_url)
        assert await connection.fetchval("SELECT version_num FROM alembic_version") == "theirs"
    await database.close()


async def test_an_old_server_is_not_migrated(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate_module, "OLDEST_SERVER", 99)
    with pytest.raises(UnsupportedServerError, match="needs"):
        await migrate(empty_url)
    assert not await schema_is_current(empty_url)


async def test_a_server_that_is_away_is_an_outage() -> None:
    with pytest.raises(Exception, match="no connection") as outage:
        await schema_is_current("postgresql://nobody@/none?host=/nonexistent")
    assert is_unavailable(outage.value)


def test_versions_sort_in_the_order_in_which_they_apply() -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    assert all(re.fullmatch(r"\d{4}", revision) for revision in revisions)
    assert revisions[0] == latest_version()


def test_the_command_migrates_and_checks(empty_url: str) -> None:
    app = Typer()
    app.command()(migrate_command)
    runner = CliRunner(env={"MILLRACE_DATABASE_URL": empty_url})

    behind = runner.invoke(app, ["--check"])
    assert behind.exit_code == 1
    assert "run: millrace migrate" in behind.stderr
    assert runner.invoke(app, []).exit_code == 0
    assert runner.invoke(app, ["--check"]).stdout == f"the schema is at version {latest_version()}\n"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://x", "expected postgresql://"),
        ("postgresql://x@/none?host=/nonexistent", "no connection"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(url: str, words: str) -> None:
    app = Typer()
    app.command()(migrate_command)
    result = CliRunner(env={"MILLRACE_DATABASE_URL": url}).invoke(app, [])
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
