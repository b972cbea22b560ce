import asyncio
from pathlib import Path

from millrace_client import JobStatus, Millrace
from millrace_database.database import Database
from support.processes import stack

ROWS = 400_000


def _write_csv(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("number,name,note\n")
        file.writelines(f"{number},name {number},{'x' * 60}\n" for number in range(rows))


async def test_an_import_survives_the_death_of_its_worker(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    source = tmp_path / "rows.csv"
    _write_csv(source, ROWS)
    settings = {"MILLRACE_LEASE_SECONDS": "4", "MILLRACE_HEARTBEAT_SECONDS": "1"}
    async with (
        stack(database_url, tmp_path, names=("jobs", "worker"), settings=settings) as services,
        Millrace(services.jobs.address, org_id="acme") as client,
    ):
        file = await client.files.upload(source)
        job = await client.jobs.create("imports:load", {"file_id": file.file_id, "dataset": "numbers"})
        async with asyncio.timeout(60):
            async for state in client.jobs.watch(job.job_id):
                if state.processed_items > 0:
                    break
        assert state.processed_items < ROWS
        await services.worker.kill()
        await services.worker.start()
        finished = await client.jobs.wait(job.job_id, timeout=60)

    assert (finished.status, finished.attempt) == (JobStatus.COMPLETED, 2)
    assert finished.output is not None
    assert finished.output["rows_loaded"] == ROWS
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM dataset_rows") == ROWS
        assert await connection.fetchval("SELECT count(DISTINCT data->>'number') FROM dataset_rows") == ROWS
