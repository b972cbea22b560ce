import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from millrace_database.database import Database
from support.worker_runs import create, finished, output

HANDLERS = """
from millrace_worker import JobContext, job_handler

@job_handler("my-feature:process")
async def process(context: JobContext[dict]) -> dict:
    return {"doubled": 2 * context.input["number"]}
"""
PROGRAM = "import typer; from millrace_worker.worker_command import worker; typer.run(worker)"


@asynccontextmanager
async def _worker(
    folder: Path, database_url: str, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        "MILLRACE_DATABASE_URL": database_url,
        "MILLRACE_WORKER_PORT": "0",
        "MILLRACE_LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        *arguments,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_team_runs_its_own_handlers(database: Database, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "my_app").mkdir()
    (tmp_path / "my_app" / "handlers.py").write_text(HANDLERS)

    async with _worker(tmp_path, database_url, "--handlers", "my_app.handlers") as process:
        (job_id,) = await create(database, "my-feature:process", [{"number": 21}])
        job = await finished(database, job_id, within=30)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0

    assert output(job) == {"doubled": 42}


async def test_what_is_wrong_in_a_module_is_said_in_one_line(database_url: str, tmp_path: Path) -> None:
    module = tmp_path / "my_jobs.py"
    module.write_text(HANDLERS.replace('process")', 'process", rate=(5, 1))'))

    async with _worker(tmp_path, database_url, "--handlers", "my_jobs") as process:
        _, said = await process.communicate()

    assert process.returncode == 2
    assert "Traceback" not in said.decode()
    last = said.decode().splitlines()[-1]
    assert f"my_jobs.process ({module}:4) cannot handle 'my-feature:process': rate is a Rate or None" in last


async def test_a_module_that_is_not_there_is_said_in_one_line(database_url: str, tmp_path: Path) -> None:
    async with _worker(tmp_path, database_url, "--handlers", "no_such_app.handlers") as process:
        _, said = await process.communicate()

    assert process.returncode == 2
    last = said.decode().splitlines()[-1]
    assert last.startswith("millrace worker: --handlers no_such_app.handlers: ")
    assert "No module named 'no_such_app'" in last
