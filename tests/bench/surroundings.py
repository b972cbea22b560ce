"""The embedded Postgres and the services that a run measures; nothing of them outlives it."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

from millrace_database.connection_url import with_database
from millrace_database.database import Database
from millrace_database.embedded import resolve_database
from millrace_database.migrate import migrate
from millrace_worker.publication import publish
from millrace_worker.registry import load_handlers
from support.processes import ServiceProcess, Stack, stack

_PREFIX = "millrace-bench-"
_LOCK = "run.lock"
_TEMPLATE = "bench_template"
_HANDLERS = "bench.handlers"
_SETTINGS = {
    "MILLRACE_HANDLERS": _HANDLERS,
    "MILLRACE_LOG_LEVEL": "WARNING",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


class Surroundings:
    """One Postgres with durable commits, on which each figure has databases and services of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._numbers = count()

    @property
    def postgres_log(self) -> Path:
        return self._folder / "postgres" / "postgres.log"

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """A new database with all tables, dropped at the end."""
        name = f"bench_{next(self._numbers)}"
        server = await Database.open(self._url, application_name="bench")
        try:
            async with server.connection() as connection:
                await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}", timeout=60)
            database = await Database.open(with_database(self._url, name), application_name="bench")
            try:
                yield database
            finally:
                await database.close()
                async with server.connection() as connection:
                    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)", timeout=60)
        finally:
            await server.close()

    @asynccontextmanager
    async def services(
        self, database: Database, *names: str, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Stack]:
        """The named services as processes; the others are not started."""
        folder = self._folder / f"services_{next(self._numbers)}"
        folder.mkdir()
        async with stack(
            database.url, folder, names=names, settings={**_SETTINGS, **(settings or {})}
        ) as running:
            yield running

    @asynccontextmanager
    async def jobs_service(self, database: Database) -> AsyncIterator[Stack]:
        """The Jobs service, which knows the job types although no worker runs."""
        await publish(database, load_handlers([_HANDLERS]))
        async with self.services(database, "jobs") as running:
            yield running

    @asynccontextmanager
    async def workers(
        self, database: Database, number: int, *, slots: int | None = None
    ) -> AsyncIterator[list[ServiceProcess]]:
        """So many workers, not yet started. `slots`: jobs that each runs at once; None: as shipped."""
        settings = {} if slots is None else {"MILLRACE_WORKER_SLOTS": str(slots)}
        async with AsyncExitStack() as exits:
            stacks = [
                await exits.enter_async_context(self.services(database, settings=settings))
                for _ in range(number)
            ]
            yield [single.worker for single in stacks]

    def service_logs(self) -> str:
        """The ends of what the services have written."""
        logs = [log for log in sorted(self._folder.glob("services_*/*.log")) if log.stat().st_size]
        return "\n".join(f"{log.parent.name}/{log.name}: {log.read_text()[-2000:]}" for log in logs)


@asynccontextmanager
async def surroundings() -> AsyncIterator[Surroundings]:
    """Start a new embedded Postgres in a folder of its own, and remove both at the end."""
    with _folder() as folder:
        async with resolve_database(None, folder) as url:
            await _make_template(url)
            yield Surroundings(url, folder)


async def _make_template(url: str) -> None:
    server = await Database.open(url, application_name="bench")
    async with server.connection() as connection:
        await connection.execute(f"CREATE DATABASE {_TEMPLATE}", timeout=60)
    await server.close()
    await migrate(with_database(url, _TEMPLATE))


@contextmanager
def _folder() -> Iterator[Path]:
    _remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / _LOCK).open("w") as lock:
            # Held for as long as this process lives, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


def _remove_leftovers() -> None:
    """Remove the folders of runs that were killed; they may hold gigabytes."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        lock = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
