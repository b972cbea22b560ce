import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from millrace_client import JobStatus, Millrace, NewJob, UnavailableError
from millrace_database.embedded import EmbeddedPostgres
from millrace_database.migrate import migrate
from support.postgres_outage import frozen, stopped
from support.processes import eventually_health, stack

JOBS = 200
INPUT = {"rows": [{"a": 1}], "format": "json"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres.start(tmp_path, durable=False) as server:
        yield server


@pytest.mark.parametrize("outage", [stopped, frozen])
async def test_services_go_on_by_themselves_after_an_outage(
    server: EmbeddedPostgres, tmp_path: Path, outage: Callable[[Path], AbstractContextManager[None]]
) -> None:
    await migrate(server.url)
    settings = {"MILLRACE_LEASE_SECONDS": "4", "MILLRACE_HEARTBEAT_SECONDS": "1"}
    async with (
        stack(server.url, tmp_path, settings=settings) as services,
        Millrace(services.jobs.address, org_id="acme") as client,
    ):
        created = await client.jobs.create_many(NewJob("reports:generate", INPUT) for _ in range(JOBS))
        with outage(tmp_path):
            for service in (services.jobs, services.scheduler, services.worker):
                await eventually_health(service.address, serving=False)
            with pytest.raises(UnavailableError):
                await client.jobs.create("reports:generate", INPUT, timeout=20)
        for service in (services.jobs, services.scheduler, services.worker):
            await eventually_health(service.address, serving=True)
        finished = [await client.jobs.wait(result.job_id, timeout=60) for result in created]
        after = await client.jobs.create("reports:generate", INPUT)
        finished.append(await client.jobs.wait(after.job_id, timeout=60))
        assert services.worker.running
        assert services.jobs.running
        assert services.scheduler.running
    assert {job.status for job in finished} == {JobStatus.COMPLETED}


async def test_a_running_job_outlives_an_outage_longer_than_its_lease(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    await migrate(server.url)
    source = tmp_path / "rows.csv"
    rows = 60_000
    source.write_text("number\n" + "".join(f"{number}\n" for number in range(rows)))
    settings = {"MILLRACE_LEASE_SECONDS": "2", "MILLRACE_HEARTBEAT_SECONDS": "0.5"}
    async with (
        stack(server.url, tmp_path, names=("jobs", "worker"), settings=settings) as services,
        Millrace(services.jobs.address, org_id="acme") as client,
    ):
        file = await client.files.upload(source)
        job = await client.jobs.create("imports:load", {"file_id": file.file_id, "dataset": "numbers"})
        async with asyncio.timeout(60):
            async for state in client.jobs.watch(job.job_id):
                if state.processed_items > 0:
                    break
        with stopped(tmp_path):
            await eventually_health(services.worker.address, serving=False)
            await asyncio.sleep(4)  # twice the lease: whatever could be lost by waiting is lost now
        finished = await client.jobs.wait(job.job_id, timeout=60)

    assert finished.status is JobStatus.COMPLETED
    assert finished.output is not None
    assert finished.output["rows_loaded"] == rows
