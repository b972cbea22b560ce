from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from millrace_database.database import Database
from millrace_database.job_options import RetryRule, TypeLimits, TypeOptions
from millrace_database.job_type_limits import update_job_type_limits
from millrace_database.job_types_repository import get_job_type
from millrace_worker import Backoff, JobContext, Rate, Registry, Retention
from millrace_worker.publication import publish
from support.worker_runs import fetch

_RATE = Rate(10, timedelta(seconds=1))
_LIMITS = "SELECT max_running, max_running_per_tenant, rate_count, tenant_rate_count FROM queue_types"


def _registry(**options: Any) -> Registry:
    registry = Registry()

    @registry.job_handler("orders:send", **options)
    async def send(context: JobContext[dict[str, Any]]) -> None: ...

    return registry


async def _limits(database: Database) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await fetch(database, _LIMITS)]


async def test_the_options_of_a_handler_are_published(database: Database) -> None:
    backoff = Backoff(timedelta(seconds=5), kind="fixed")
    retention = Retention(completed=timedelta(days=2))
    await publish(database, _registry(backoff=backoff, dead_letter="orders:dead", retention=retention))

    async with database.connection() as connection:
        record = await get_job_type(connection, "orders:send")
    assert record is not None
    options = TypeOptions.from_json(record.options_json)
    assert options.retry == RetryRule("fixed", timedelta(seconds=5), timedelta(minutes=5), 2, 0.1)
    assert (options.dead_letter_type, options.retention) == ("orders:dead", retention)


async def test_a_dead_letter_type_that_nobody_has_published_is_named_in_the_log(database: Database) -> None:
    with capture_logs() as logs:
        await publish(database, _registry(dead_letter="orders:lost"))
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert (warning["type"], warning["dead_letter"]) == ("orders:send", "orders:lost")


async def test_a_dead_letter_type_that_is_known_is_not_complained_of(database: Database) -> None:
    async def handle(context: JobContext[dict[str, Any]]) -> None: ...

    elsewhere = Registry()
    elsewhere.job_handler("orders:dead")(handle)
    await publish(database, elsewhere)
    beside = _registry(dead_letter="orders:dead")
    beside.job_handler("orders:other", dead_letter="orders:send")(handle)

    with capture_logs() as logs:
        await publish(database, beside)
    assert [line for line in logs if line["log_level"] == "warning"] == []


async def test_limits_hold_once_they_are_published(database: Database) -> None:
    await publish(
        database,
        _registry(max_running=4, max_running_per_organisation=2, rate=_RATE, rate_per_organisation=_RATE),
    )
    assert await _limits(database) == [(4, 2, 10, 10)]

    await publish(database, _registry(max_running=5))
    assert await _limits(database) == [(5, None, None, None)]


async def test_what_operators_set_outlasts_a_publication(database: Database) -> None:
    await publish(database, _registry(max_running=4, rate=_RATE))
    async with database.transaction() as connection:
        overrides = TypeLimits(max_running=0, max_running_per_organisation=3)
        assert await update_job_type_limits(connection, "orders:send", overrides)
    await publish(database, _registry(max_running=6, max_running_per_organisation=9, rate=_RATE))

    assert await _limits(database) == [(None, 3, 10, None)]
