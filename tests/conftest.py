"""The databases that tests run on: one embedded server for all, a new database for each test."""

import asyncio
import fcntl
import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from millrace_database.connection_url import asyncpg_dsn, with_database
from millrace_database.database import Database
from millrace_database.embedded import EmbeddedPostgres
from millrace_database.migrate import migrate

pytest_plugins = ["support.s3_fixtures"]

_TEMPLATE = "millrace_template"
_MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its own there
_NEEDED_BYTES = 2 * 2**30
_FAULTS = Path(__file__).with_name("faults")
_Execute = Callable[[str], object]


def pytest_configure() -> None:
    """Keep temporary files in memory where there is room: on a disk a new database takes ten times as long."""
    if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _NEEDED_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that take longest, by waiting: at the end the other processes would wait for them."""
    items.sort(key=lambda item: _FAULTS not in item.path.parents)


def pytest_collection_finish() -> None:
    """Leave what was imported out of all garbage collections: some tests ask for many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shared by all processes of one test run."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def postgres_url(_session_folder: Path) -> Iterator[str]:
    """The URL of an empty database of the run's server; the server ends with the last process that uses it."""
    with EmbeddedPostgres.start(_session_folder, durable=False) as server:
        yield server.url


@pytest.fixture(scope="module")
def quiet_postgres_url() -> Iterator[str]:
    """The same of a server of its own: a transaction that is open in any database of a server keeps pages from being cleared."""
    with (
        tempfile.TemporaryDirectory(prefix="quiet-") as folder,
        EmbeddedPostgres.start(Path(folder), durable=False) as server,
    ):
        yield server.url


@pytest.fixture(scope="session")
def _execute(postgres_url: str, _session_folder: Path) -> Iterator[_Execute]:
    """Executes a statement outside of all databases that tests use; there is a migrated one to be copied."""
    # Not asyncio.run, which would take the event loop away from a test that already has one.
    with asyncio.Runner() as runner:
        with _alone(_session_folder / "template.lock"):
            runner.run(_make_template(postgres_url))
        connection = runner.run(asyncpg.connect(asyncpg_dsn(postgres_url)))
        yield lambda statement: runner.run(connection.execute(statement))
        runner.run(connection.close())


@pytest.fixture
def database_url(postgres_url: str, _execute: _Execute) -> Iterator[str]:
    """The URL of a new database with all tables."""
    name = f"test_{uuid4().hex}"
    _execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
    yield with_database(postgres_url, name)
    _execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on a new database with all tables."""
    opened = await Database.open(database_url, application_name="test")
    yield opened
    await opened.close()


async def _make_template(postgres_url: str) -> None:
    connection = await asyncpg.connect(asyncpg_dsn(postgres_url))
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _TEMPLATE):
            return
        await connection.execute(f"CREATE DATABASE {_TEMPLATE}_unfinished")
        await migrate(with_database(postgres_url, f"{_TEMPLATE}_unfinished"))
        await connection.execute(f"ALTER DATABASE {_TEMPLATE}_unfinished RENAME TO {_TEMPLATE}")
    finally:
        await connection.close()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
