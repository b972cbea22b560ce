import asyncio
from pathlib import Path

from millrace_client import JobStatus, Millrace
from millrace_database.database import Database
from support.processes import ServiceProcess, stack

_SETTINGS = {
    "MILLRACE_LEASE_SECONDS": "2",
    "MILLRACE_HEARTBEAT_SECONDS": "0.5",
    "MILLRACE_HANDLERS": "support.fatal_handlers",
    "PYTHONPATH": str(Path(__file__).parent.parent),
}


async def _dies(worker: ServiceProcess) -> int:
    assert worker.process is not None
    async with asyncio.timeout(60):
        return await worker.process.wait()


async def test_a_job_that_kills_three_workers_in_a_row_is_not_given_to_a_fourth(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with (
        stack(database_url, tmp_path, names=("jobs", "worker"), settings=_SETTINGS) as services,
        Millrace(services.jobs.address, org_id="acme") as client,
    ):
        job = await client.jobs.create("fatal:exit")
        for _ in range(3):
            assert await _dies(services.worker) == 70
            await services.worker.start(ready=False)
        finished = await client.jobs.wait(job.job_id, timeout=60)
        assert services.worker.running

    assert (finished.status, finished.attempt) == (JobStatus.FAILED, 3)
    assert finished.error is not None
    assert finished.error.code == "QUARANTINED"
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT attempt, outcome, worker_name <> '' AS named FROM job_attempts ORDER BY fence"
        )
    assert [tuple(row) for row in rows] == [(attempt, "worker_lost", True) for attempt in (1, 2, 3)]
