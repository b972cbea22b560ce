"""The storage and vacuum settings of the tables that are written often are really theirs."""

import asyncpg
import pytest

from millrace_database.database import Database
from millrace_database.queue_health import HOT_TABLES

_OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = to_regclass($1)"

# How many dead rows a table with a million rows may have before it is vacuumed.
_MOST_DEAD = {
    "queue": 11_000,
    "queue_workers": 200,
    "queue_lines": 200,
    "queue_rates": 200,
    "queue_throttles": 51_000,
    "jobs": 25_000,
    "job_attempts": 55_000,
    "job_flow": 101_000,
    "scheduled_jobs": 50_500,
    "retention_sweeps": 200,
}


async def _options(conn: asyncpg.Connection, table: str) -> dict[str, str]:
    return dict(option.split("=") for option in await conn.fetchval(_OPTIONS, table) or [])


def test_each_hot_table_is_checked() -> None:
    assert set(HOT_TABLES) <= set(_MOST_DEAD)


@pytest.mark.parametrize("table", _MOST_DEAD)
async def test_a_hot_table_is_vacuumed_early_and_never_locked_for_it(database: Database, table: str) -> None:
    async with database.connection() as conn:
        options = await _options(conn, table)
    threshold = int(options["autovacuum_vacuum_threshold"])
    assert threshold + 1_000_000 * float(options["autovacuum_vacuum_scale_factor"]) <= _MOST_DEAD[table]
    # To give pages back to the system a vacuum needs an exclusive lock.
    assert options["vacuum_truncate"] == "off"
    assert options.get("autovacuum_enabled", "on") == "on"


async def test_the_queue_is_vacuumed_at_full_speed_with_its_indexes(database: Database) -> None:
    async with database.connection() as conn:
        options = await _options(conn, "queue")
    assert options["autovacuum_vacuum_cost_delay"] == "0"
    assert options["vacuum_index_cleanup"] == "on"


@pytest.mark.parametrize(
    ("table", "most"),
    [
        ("queue", 70),
        ("queue_workers", 50),
        ("queue_lines", 50),
        ("queue_rates", 50),
        ("jobs", 45),
        ("scheduled_jobs", 70),
    ],
)
async def test_pages_have_room_for_new_versions_of_their_rows(
    database: Database, table: str, most: int
) -> None:
    async with database.connection() as conn:
        assert int((await _options(conn, table))["fillfactor"]) <= most


async def test_counts_are_not_written_to_the_log_of_the_server(database: Database) -> None:
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT relpersistence FROM pg_class WHERE relname = 'job_flow'") == b"u"
