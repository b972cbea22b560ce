from uuid import uuid4

from millrace_database.database import Database
from millrace_queue import statements

_FILL = """
INSERT INTO queue (id, type, tenant, max_attempts, state, rank)
SELECT gen_random_uuid(), 'bulk:load', 'acme', 4, 'ready', n FROM generate_series(1, 2000) AS n
"""


async def test_a_plan_made_while_little_waited_reads_no_bitmap_later(database_url: str) -> None:
    """While a transaction is open dead entries stay, and a bitmap would be made of all of them."""
    hot = await Database.open(database_url, application_name="test", keep_plans=True)
    try:
        async with hot.connection() as connection:
            await connection.execute(_FILL)
            await connection.execute("DELETE FROM queue WHERE rank > 30")
            await connection.execute("VACUUM ANALYZE queue")
            await connection.execute(
                f"PREPARE claim (uuid, text[], integer[], integer) AS {statements.CLAIM}"
            )
            rows = await connection.fetch(
                f"EXPLAIN EXECUTE claim ('{uuid4()}', ARRAY['bulk:load'], ARRAY[10], 10)"
            )
    finally:
        await hot.close()
    assert "Bitmap" not in "\n".join(row[0] for row in rows)
