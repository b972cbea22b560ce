from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from millrace.files.v1 import files_service_pb2_grpc
from millrace.jobs.v1 import jobs_service_pb2_grpc
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.job_flow import FlowCounter
from millrace_database.job_hints import JOBS_CHANGED_CHANNEL, JobHints
from millrace_jobs.execution_canceller import ExecutionCanceller
from millrace_jobs.files_servicer import FilesServicer
from millrace_jobs.job_creator import JobCreator
from millrace_jobs.job_type_catalog import JobTypeCatalog
from millrace_jobs.job_watcher import JobWatcher
from millrace_jobs.job_writer import MAX_WRITERS, JobWriter
from millrace_jobs.jobs_servicer import JobsServicer
from millrace_jobs.servicer_parts import ServicerParts
from millrace_queue import Listener
from millrace_runtime.service import Component, ServiceDefinition
from millrace_runtime.settings import Settings
from millrace_storage import FileStore, open_object_store

_JOBS = "millrace.jobs.v1.JobsService"
_FILES = "millrace.files.v1.FilesService"


@asynccontextmanager
async def _open(settings: Settings, database: Database) -> AsyncIterator[Component]:
    hints = JobHints(database)
    flow = FlowCounter(database.connection)
    hot = await Database.open(
        database.url, application_name="millrace jobs writer", pool_size=MAX_WRITERS, keep_plans=True
    )
    writer = JobWriter(hot, hints.jobs_wait)
    watcher = JobWatcher(database)
    canceller = ExecutionCanceller()
    listener = Listener(
        database.direct_connection, {JOBS_CHANGED_CHANNEL: watcher.hint}, is_unavailable=is_unavailable
    )
    creator = JobCreator(
        JobTypeCatalog(database), writer, hints, flow, max_input_bytes=settings.max_input_bytes
    )
    jobs = JobsServicer(
        ServicerParts(database, creator=creator, watcher=watcher, canceller=canceller, hints=hints, flow=flow)
    )
    files = FilesServicer(
        FileStore(database, open_object_store(settings.storage_provider, data_dir=settings.data_dir))
    )

    def add_jobs(server: grpc.aio.Server) -> None:
        jobs_service_pb2_grpc.add_JobsServiceServicer_to_server(jobs, server)

    def add_files(server: grpc.aio.Server) -> None:
        files_service_pb2_grpc.add_FilesServiceServicer_to_server(files, server)

    async def drain() -> None:
        watcher.close()

    try:
        yield Component(
            servicers={_JOBS: add_jobs, _FILES: add_files},
            background=(writer.run, watcher.run, canceller.run, hints.run, listener.run, flow.run),
            drain=drain,
        )
    finally:
        await canceller.close()
        await hot.close()


definition = ServiceDefinition(name="jobs", port=lambda settings: settings.jobs_port, open=_open)
"""The Jobs service: JobsService and FilesService on one port."""
