"""The three services in this process, on any free ports, with a few small job types."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from millrace_database.database import Database
from millrace_jobs.service import definition as jobs_service
from millrace_runtime.service import running
from millrace_runtime.settings import Settings
from millrace_scheduler.service import definition as scheduler_service
from millrace_worker import JobContext, JobError, Registry
from millrace_worker.service import worker_service


@dataclass(frozen=True)
class WholeSystem:
    """Where the services listen."""

    jobs: str
    scheduler: str
    worker: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead the SDK and the command to this system, in the organisation "acme"."""
        return {
            "MILLRACE_JOBS_ADDRESS": self.jobs,
            "MILLRACE_SCHEDULER_ADDRESS": self.scheduler,
            "MILLRACE_WORKER_ADDRESS": self.worker,
            "MILLRACE_ORG_ID": "acme",
        }


@asynccontextmanager
async def running_whole_system(database: Database, folder: Path) -> AsyncIterator[WholeSystem]:
    """Run all services, with the job types toy:add, toy:steps, toy:fail and toy:wait, until the end of the block."""
    settings = Settings(
        jobs_port=0,
        scheduler_port=0,
        worker_port=0,
        files_port=0,
        data_dir=folder,
        shutdown_grace_seconds=3,
    )
    async with running(jobs_service, settings, database) as jobs:
        settings = settings.model_copy(update={"jobs_address": jobs.address})
        async with (
            running(scheduler_service, settings, database) as scheduler,
            running(worker_service(_toys()), settings, database) as worker,
        ):
            yield WholeSystem(jobs.address, scheduler.address, worker.address)


class _Summands(BaseModel):
    a: int
    b: int = 0


def _toys() -> Registry:
    registry = Registry()

    @registry.job_handler("toy:add", label="Add", description="Adds two numbers.")
    async def add(context: JobContext[_Summands]) -> dict[str, Any]:
        return {"sum": context.input.a + context.input.b}

    @registry.job_handler("toy:steps")
    async def steps(context: JobContext[dict[str, Any]]) -> None:
        await context.update_processed_items(1, 2)
        await context.update_progress(50, "half way")

    @registry.job_handler("toy:fail")
    async def fail(context: JobContext[dict[str, Any]]) -> None:
        raise JobError("OUT_OF_STOCK", "none left", retryable=False)

    @registry.job_handler("toy:wait")
    async def wait(context: JobContext[dict[str, Any]]) -> None:
        await context.update_progress(1, "waiting")
        await asyncio.Event().wait()

    return registry
