from uuid import UUID

import orjson

from millrace_database import jobs_repository
from millrace_database.database import Database
from support.polling import eventually


async def entered_at(database: Database, org_id: str, job_id: UUID, *, within: float = 20) -> float:
    """When the job's handler was entered, on the monotonic clock; waits until it has ended."""

    async def output() -> str | None:
        async with database.connection() as connection:
            record = await jobs_repository.get_job(connection, org_id, job_id)
        return None if record is None else record.output_json

    found = await eventually(output, within=within)
    assert found is not None
    entered: float = orjson.loads(found)["entered_at"]
    return entered
