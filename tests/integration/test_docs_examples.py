"""The examples of the documentation, run as they stand there."""

import asyncio
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from millrace_database.database import Database
from millrace_database.ids import parse_id
from millrace_database.job_lifecycle import create_jobs
from millrace_database.job_options import RetentionRule
from millrace_database.retention import read_retention
from millrace_queue import CHANNEL_READY, Lease
from millrace_worker import JobContext, JobError, Registry
from millrace_worker.publication import publish
from millrace_worker.registry import default_registry
from support.queue_samples import sample_job
from support.scheduler_api import scheduling
from support.system_runs import ended, make_due
from support.worker_runs import create, fetch, finished, worker

_DOCS = Path(__file__).parents[2] / "docs"
_DEFAULT = RetentionRule(timedelta(days=30), timedelta(days=30), timedelta(days=30))


def _block(page: str, language: str, containing: str) -> str:
    """The only code block of a page that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (_DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if containing in block)
    return str(block)


def _module(page: str, containing: str, name: str, **values: Any) -> Mapping[str, Any]:
    """What a Python block defines, as if it were a module of this name."""
    module = ModuleType(name)
    vars(module).update(values)
    sys.modules[name] = module
    exec(compile(_block(page, "python", containing), f"{page}: {name}", "exec"), vars(module))  # noqa: S102 - ours
    return vars(module)


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the examples import and register."""
    monkeypatch.setattr(default_registry, "_handlers", {})
    monkeypatch.setattr(default_registry, "_system_schedules", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("my_app"):
            del sys.modules[name]


@pytest.fixture
async def orders(database: Database) -> Database:
    """A database with the table of orders that the examples speak of."""
    async with database.connection() as connection:
        await connection.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, shipped bool NOT NULL DEFAULT false)"
        )
    return database


async def _shipped(database: Database) -> list[tuple[int, bool]]:
    return [tuple(row) for row in await fetch(database, "SELECT id, shipped FROM orders ORDER BY id")]


async def test_a_handler_that_confirms_its_lease_writes_as_its_holder(
    orders: Database, tmp_path: Path
) -> None:
    _module("handlers.md", "confirm(", "my_app.orders")
    async with orders.connection() as connection:
        await connection.execute("INSERT INTO orders (id) VALUES (1)")
    async with worker(orders, default_registry, tmp_path):
        (job_id,) = await create(orders, "orders:ship", [{"order_id": 1}])
        assert (await finished(orders, job_id)).status == "completed"
    assert await _shipped(orders) == [(1, True)]


async def test_a_handler_whose_lease_is_lost_writes_nothing(orders: Database) -> None:
    example = _module("handlers.md", "confirm(", "my_app.orders")
    async with orders.connection() as connection:
        await connection.execute("INSERT INTO orders (id) VALUES (1)")
    context = JobContext(
        job_id="job_1",
        org_id="acme",
        type="orders:ship",
        input=example["ShipInput"](order_id=1),
        metadata={},
        attempt=1,
        created_by="ann",
        lease=Lease(uuid4(), 1),
        resources=Mock(database=orders),
        report=Mock(),
    )
    with pytest.raises(JobError, match="LEASE_LOST"):
        await example["ship"](context)
    assert await _shipped(orders) == [(1, False)]


async def test_a_job_is_created_in_the_callers_transaction(orders: Database, tmp_path: Path) -> None:
    place_order = _module("database.md", "create_jobs(", "my_app.checkout")["place_order"]
    _module("handlers.md", "confirm(", "my_app.orders")
    engine = create_async_engine(orders.url)
    listener = await orders.direct_connection()
    hints: asyncio.Queue[object] = asyncio.Queue()
    await listener.add_listener(CHANNEL_READY, lambda *hint: hints.put_nowait(hint[-1]))
    try:
        job = parse_id("job", await place_order(engine, 7))
        with pytest.raises(IntegrityError):
            await place_order(engine, 7)
        assert await asyncio.wait_for(hints.get(), 10) == "orders:ship"
    finally:
        await listener.close()
        await engine.dispose()

    assert [row["job_id"] for row in await fetch(orders, "SELECT job_id FROM jobs")] == [job]
    async with worker(orders, default_registry, tmp_path):
        assert (await finished(orders, job)).status == "completed"
    assert await _shipped(orders) == [(7, True)]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("input_json", "no JSON", asyncpg.InvalidTextRepresentationError),
        ("input_json", '{"a": "\\u0000"}', asyncpg.UntranslatableCharacterError),
        ("priority", 101, asyncpg.CheckViolationError),
        ("max_attempts", 0, asyncpg.CheckViolationError),
    ],
)
async def test_what_is_checked_of_a_job_in_the_callers_transaction(
    database: Database, field: str, value: object, error: type[Exception]
) -> None:
    async with database.transaction() as connection:
        await create_jobs(connection, [sample_job(type="nobody:knows")])
    with pytest.raises(error):
        async with database.transaction() as connection:
            await create_jobs(connection, [sample_job(**{field: value})])


async def test_a_handler_is_tested_with_a_context_made_by_hand() -> None:
    async def count_lines(_file_id: str) -> int:
        return 3

    handlers = _module("handlers.md", "class ProcessInput", "my_app.handlers", count_lines=count_lines)
    assert handlers["process"]
    example = _module("handlers.md", "context = JobContext(", "my_app.test_handlers")
    await example["test_the_lines_of_a_file_are_counted"]()


async def test_operators_set_how_long_jobs_of_a_type_are_kept(database: Database) -> None:
    registry = Registry()

    @registry.job_handler("reports:generate", max_running=3)
    async def generate(context: JobContext[dict[str, Any]]) -> None: ...

    await publish(database, registry)
    async with database.connection() as connection:
        await connection.execute(_block("operations.md", "sql", "UPDATE job_types SET overrides"))
        kept = await read_retention(connection, _DEFAULT)
        (row,) = await connection.fetch(_block("operations.md", "sql", "AS by_handler"))

    expected = RetentionRule(timedelta(days=7), timedelta(days=90))
    assert kept.types["reports:generate"] == expected
    assert (row["by_handler"], row["by_operator"]) == ('{"max_running": 3}', None)
    assert row["kept_by_operator"] == '{"failed": 7776000, "completed": 604800}'


async def test_the_system_schedule_of_the_page_on_system_schedules_runs(
    database: Database, tmp_path: Path
) -> None:
    _module("system-schedules.md", "drafts:cleanup", "my_app.maintenance")
    await fetch(database, "CREATE TABLE my_app_drafts (expires_at timestamptz NOT NULL)")
    await fetch(database, "INSERT INTO my_app_drafts VALUES (now() - interval '1 hour'), ('infinity')")
    async with scheduling(database), worker(database, default_registry, tmp_path):
        await make_due(database, "drafts:cleanup")
        row = await ended(database, "drafts:cleanup")
    assert (row["last_outcome"], row["cron"]) == ("completed", "0 * * * *")
    assert len(await fetch(database, "SELECT FROM my_app_drafts")) == 1
