import asyncio
from pathlib import Path

from millrace_client import JobStatus, Millrace, MillraceError
from millrace_database.database import Database
from support.processes import stack

CALLERS = 50
JOBS_EACH = 6
INPUT = {"rows": [{"a": 1}], "format": "json"}


async def _create_until_acknowledged(client: Millrace, request_id: str) -> str:
    while True:
        try:
            job = await client.jobs.create("reports:generate", INPUT, request_id=request_id, timeout=5)
        except MillraceError:
            continue
        return job.job_id


async def test_no_acknowledged_job_is_lost_or_doubled(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    acknowledged: dict[str, str] = {}
    some_acknowledged = asyncio.Event()

    async def create_some(client: Millrace, caller: int) -> None:
        for number in range(JOBS_EACH):
            request_id = f"{caller}-{number}"
            acknowledged[request_id] = await _create_until_acknowledged(client, request_id)
            if len(acknowledged) > CALLERS:
                some_acknowledged.set()

    async with (
        stack(database_url, tmp_path, names=("jobs", "worker")) as services,
        Millrace(services.jobs.address, org_id="acme") as client,
    ):
        async with asyncio.timeout(90), asyncio.TaskGroup() as callers:
            for caller in range(CALLERS):
                callers.create_task(create_some(client, caller))
            await some_acknowledged.wait()
            await services.jobs.kill()
            await services.jobs.start()
        finished = [await client.jobs.wait(job_id, timeout=60) for job_id in acknowledged.values()]

    assert len(set(acknowledged.values())) == CALLERS * JOBS_EACH
    assert {job.status for job in finished} == {JobStatus.COMPLETED}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs") == CALLERS * JOBS_EACH
        assert await connection.fetchval("SELECT count(*) FROM queue") == 0
