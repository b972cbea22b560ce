"""The jobs that are created, and putting them straight into the tables."""

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import orjson

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.job_lifecycle import NewJob, create_plain_jobs

NOOP = "bench:noop"
NOOP_THREAD = "bench:noop-thread"
NESTED = "bench:nested"
ORG = "org_0"

# As much as takes a tenth of a second.
_BATCH = 2_000
_CONNECTIONS = 2


def small_input(number: int) -> dict[str, Any]:
    """Three fields."""
    return {"number": number, "name": f"job {number}", "urgent": False}


def nested_input(number: int) -> dict[str, Any]:
    """About 300 bytes of JSON, three levels deep."""
    return {
        "number": number,
        "customer": {
            "name": f"Customer {number}",
            "email": f"customer.{number}@example.com",
            "address": {"street": f"{number} High Street", "city": "Springfield", "country": "US"},
        },
        "items": [
            {"article": f"article-{number}-{item}", "quantity": item, "price": 9.95} for item in range(2)
        ],
    }


def new_jobs(
    count: int, job_type: str = NOOP, *, organisations: Sequence[str] = (ORG,), run_at: datetime | None = None
) -> Iterator[NewJob]:
    """Jobs as the Jobs service makes them of requests of the SDK, by the organisations in turn."""
    make_input = nested_input if job_type == NESTED else small_input
    for number in range(count):
        yield NewJob(
            job_id=new_id(),
            org_id=organisations[number % len(organisations)],
            type=job_type,
            input_json=orjson.dumps(make_input(number)).decode(),
            metadata_json="{}",
            created_by="bench",
            max_attempts=4,
            run_at=run_at,
            request_id=uuid.uuid4().hex,
        )


async def put(database: Database, jobs: Iterable[NewJob]) -> None:
    """Put jobs into the tables, without a hint to anybody."""
    left = iter(jobs)

    async def create() -> None:
        while batch := list(islice(left, _BATCH)):
            async with database.transaction() as connection:
                await create_plain_jobs(connection, batch)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_CONNECTIONS):
            tasks.create_task(create())


async def fill(database: Database, jobs: Iterable[NewJob]) -> None:
    """Put jobs into the tables, and let the planner know."""
    await put(database, jobs)
    async with database.connection() as connection:
        await connection.execute("ANALYZE jobs, queue", timeout=600)


async def empty(database: Database) -> None:
    """Leave no job, and nothing that jobs have left behind in the tables."""
    async with database.connection() as connection:
        await connection.execute("TRUNCATE jobs, queue CASCADE")
