"""A task that is cancelled while BEGIN is on its way leaves no transaction behind for whoever takes the connection next."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from millrace_database.database import Database


@pytest.mark.parametrize("way", ["transaction", "connection"])
async def test_what_is_done_after_a_begin_that_was_cancelled_is_committed(
    database: Database, database_url: str, way: str
) -> None:
    one = await Database.open(database_url, application_name="test", pool_size=1)
    try:
        async with one.connection() as conn:
            await conn.execute("CREATE TABLE kept (n integer)")
        began: Any = conn

        async def begin() -> None:
            async with one.transaction():
                await asyncio.Event().wait()

        task = asyncio.create_task(begin())
        while began._top_xact is None:
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

        async with getattr(one, way)() as conn:
            await conn.execute("INSERT INTO kept VALUES (1)")
        async with database.connection() as other:
            assert await other.fetchval("SELECT count(*) FROM kept") == 1
    finally:
        await one.close()
