import asyncio
from datetime import timedelta
from pathlib import Path

from millrace_client import Every, JobStatus, Millrace, NewJob
from millrace_database.database import Database
from support.processes import stack

JOBS = 300


async def test_sigterm_of_each_service_under_load_loses_nothing(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with (
        stack(database_url, tmp_path) as services,
        Millrace(services.jobs.address, scheduler=services.scheduler.address, org_id="acme") as client,
    ):
        await client.schedules.create(
            "every second",
            "reports:generate",
            Every(timedelta(seconds=1)),
            {"rows": [{"a": 1}], "format": "json"},
        )
        created = await client.jobs.create_many(
            NewJob("reports:generate", {"rows": [{"n": number}], "format": "csv"}) for number in range(JOBS)
        )
        exit_codes = await asyncio.gather(
            services.worker.terminate(), services.scheduler.terminate(), services.jobs.terminate()
        )
        assert set(exit_codes) == {0}
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM jobs WHERE status = 'processing'") == 0
            assert await connection.fetchval("SELECT count(*) FROM queue WHERE state = 'running'") == 0

        await services.jobs.start()
        await services.worker.start()
        finished = [await client.jobs.wait(result.job_id, timeout=60) for result in created]
    assert {(job.status, job.attempt) for job in finished} == {(JobStatus.COMPLETED, 1)}
