"""`millrace up` as a person runs it: the real command, real services, real signals."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from millrace_client import JobStatus, Millrace
from support.files_api import fetch
from support.processes import eventually_health
from support.s3_server import S3Server

MILLRACE = Path(sys.executable).with_name("millrace")
START_SECONDS = 90
STOP_SECONDS = 10
SERVICES = ("jobs", "scheduler", "worker")
INPUT = {"rows": [{"a": 1}], "format": "json"}


@dataclass
class System:
    """A running `millrace up`, and what it has printed."""

    process: asyncio.subprocess.Process
    printed: dict[str, str]
    family: list[psutil.Process]

    def client(self) -> Millrace:
        return Millrace(self.printed["jobs"], scheduler=self.printed["scheduler"], org_id="acme")

    def services(self) -> list[psutil.Process]:
        """The processes of the three services."""
        children = psutil.Process(self.process.pid).children()
        services = [child for child in children if set(SERVICES) & set(child.cmdline())]
        assert len(services) == len(SERVICES)
        return services

    async def stop(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return await asyncio.wait_for(self.process.wait(), STOP_SECONDS)

    async def until_all_gone(self) -> None:
        """Wait until everything that it has started has ended."""
        async with asyncio.timeout(STOP_SECONDS + 5):
            while any(_lives(process) for process in self.family):
                await asyncio.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def _started(folder: Path, settings: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        "MILLRACE_DATA_DIR": str(folder / "data"),
        **{f"MILLRACE_{name.upper()}_PORT": "0" for name in (*SERVICES, "files")},
        **settings,
    }
    with (folder / "up.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(MILLRACE, "up"), env=environment, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _up(folder: Path, **settings: str) -> AsyncIterator[System]:
    async with _started(folder, settings) as process:
        printed: dict[str, str] = {}
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            while "millrace" not in printed:
                line = (await process.stdout.readline()).decode()
                assert line, (folder / "up.log").read_text()
                word, _, rest = line.partition(" ")
                printed[word] = rest.strip()
        family = psutil.Process(process.pid).children(recursive=True)
        yield System(process, printed, family)


async def test_the_whole_system_runs_a_job_and_stops_on_sigterm(tmp_path: Path) -> None:
    async with _up(tmp_path) as system:
        assert list(system.printed) == ["database", "jobs", "files", "scheduler", "worker", "millrace"]
        assert system.printed["database"] == f"embedded, in {tmp_path / 'data' / 'postgres'}"
        assert system.printed["millrace"].startswith("is ready")
        async with system.client() as client:
            job = await client.jobs.create("reports:generate", INPUT)
            assert (await client.jobs.wait(job.job_id, timeout=30)).status == JobStatus.COMPLETED
            file = await client.files.upload(b"content", "a.txt")
            url = await client.files.download_url(file.file_id)
            assert url.url.startswith(f"{system.printed['files']}/")
        assert await system.stop(signal.SIGTERM) == 0
        await system.until_all_gone()


async def test_ctrl_c_in_a_terminal_stops_it(database_url: str, tmp_path: Path) -> None:
    async with _up(tmp_path, MILLRACE_DATABASE_URL=database_url) as system:
        assert system.printed["database"] == "as configured"
        assert await system.stop(signal.SIGINT) == 0
        await system.until_all_gone()


async def _until_logged(folder: Path, event: str, *, times: int) -> None:
    async with asyncio.timeout(60):
        while (folder / "up.log").read_text().count(event) < times:
            await asyncio.sleep(0.05)


async def test_a_service_that_was_killed_comes_back(database_url: str, tmp_path: Path) -> None:
    async with _up(tmp_path, MILLRACE_DATABASE_URL=database_url) as system, system.client() as client:
        file = await client.files.upload(b"content", "a.txt")
        url = (await client.files.download_url(file.file_id)).url
        for service in system.services():
            service.kill()
        await _until_logged(tmp_path, "process started again", times=len(SERVICES))
        for name in SERVICES:
            await eventually_health(system.printed[name], serving=True, within=60)
        job = await client.jobs.create("reports:generate", INPUT)
        assert (await client.jobs.wait(job.job_id, timeout=30)).status == JobStatus.COMPLETED
        assert (await fetch(url))[2] == b"content"
        assert await system.stop(signal.SIGTERM) == 0


async def test_nothing_outlives_it_when_it_is_killed(tmp_path: Path) -> None:
    async with _up(tmp_path) as system:
        assert len(system.family) > len(SERVICES)
        await system.stop(signal.SIGKILL)
        await system.until_all_gone()


async def test_settings_that_cannot_be_used_are_said_at_once(tmp_path: Path) -> None:
    async with _started(tmp_path, {"MILLRACE_STORAGE_PROVIDER": "ftp"}) as process:
        assert await asyncio.wait_for(process.wait(), START_SECONDS) == 2
    assert (tmp_path / "up.log").read_text().startswith("millrace up: MILLRACE_STORAGE_PROVIDER: ")


async def test_a_service_that_cannot_start_ends_it_all(database_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"MILLRACE_DATABASE_URL": database_url, "MILLRACE_WORKER_PORT": str(port)}
        async with _started(tmp_path, settings) as process:
            assert await asyncio.wait_for(process.wait(), START_SECONDS) == 2
    errors = (tmp_path / "up.log").read_text()
    assert f"millrace serve worker: cannot listen on 127.0.0.1:{port}: address already in use\n" in errors
    assert errors.endswith("millrace up: worker did not start: exit code 2\n")


async def test_a_bucket_that_is_not_there_ends_it_all(
    database_url: str, tmp_path: Path, s3_server: S3Server
) -> None:
    settings = {
        **s3_server.environment,
        "MILLRACE_DATABASE_URL": database_url,
        "MILLRACE_STORAGE_PROVIDER": "s3",
        "MILLRACE_S3_BUCKET": "no-such-bucket",
        "MILLRACE_S3_ENDPOINT": s3_server.endpoint,
    }
    async with _started(tmp_path, settings) as process:
        assert await asyncio.wait_for(process.wait(), START_SECONDS) == 2
    errors = (tmp_path / "up.log").read_text()
    assert f": MILLRACE_S3_BUCKET: {s3_server.endpoint} has no bucket no-such-bucket\n" in errors
    assert errors.splitlines()[-1].startswith("millrace up: ")
    assert "Traceback" not in errors


async def test_a_database_that_is_not_there_ends_it_in_one_line(tmp_path: Path) -> None:
    settings = {"MILLRACE_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"}
    async with _started(tmp_path, settings) as process:
        assert await asyncio.wait_for(process.wait(), START_SECONDS) == 1
    (line,) = (tmp_path / "up.log").read_text().splitlines()
    assert line.startswith("millrace up: ")
