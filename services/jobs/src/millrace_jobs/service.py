from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc

from millrace.files.v1 import files_service_pb2_grpc
from millrace.jobs.v1 import jobs_service_pb2_grpc, subscriptions_service_pb2_grpc
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.job_flow import FlowCounter
from millrace_database.job_hints import JOBS_CHANGED_CHANNEL, JobHints
from millrace_jobs.execution_canceller import ExecutionCanceller
from millrace_jobs.file_serving import serving_presigned_files
from millrace_jobs.files_servicer import FilesServicer
from millrace_jobs.job_creator import JobCreator
from millrace_jobs.job_type_catalog import JobTypeCatalog
from millrace_jobs.job_watcher import JobWatcher
from millrace_jobs.job_writer import MAX_WRITERS, JobWriter
from millrace_jobs.jobs_servicer import JobsServicer
from millrace_jobs.servicer_parts import ServicerParts
from millrace_jobs.subscriptions_servicer import SubscriptionsServicer
from millrace_queue import Listener
from millrace_runtime.service import Component, ServiceDefinition
from millrace_runtime.settings import Settings, StartupError
from millrace_storage import FileStore, StoreUnusableError, open_usable_file_store

_JOBS = "millrace.jobs.v1.JobsService"
_FILES = "millrace.files.v1.FilesService"
_SUBSCRIPTIONS = "millrace.jobs.v1.SubscriptionsService"


@asynccontextmanager
async def _open(settings: Settings, database: Database) -> AsyncIterator[Component]:
    async with AsyncExitStack() as closing:
        try:
            store = await closing.enter_async_context(open_usable_file_store(database, settings))
        except StoreUnusableError as error:
            raise StartupError(str(error)) from None
        presigned = await closing.enter_async_context(serving_presigned_files(settings, store))
        component = await _opened(settings, database, store, closing)

        async def drain() -> None:
            # Requests by HTTP end beside calls, in the same time.
            presigned.begin_to_end()
            await component.drain()

        yield replace(component, drain=drain, urls={} if presigned.url is None else {"files": presigned.url})


async def _opened(
    settings: Settings, database: Database, store: FileStore, closing: AsyncExitStack
) -> Component:
    hints = JobHints(database)
    flow = FlowCounter(database.connection)
    hot = await Database.open(
        database.url, application_name="millrace jobs writer", pool_size=MAX_WRITERS, keep_plans=True
    )
    closing.push_async_callback(hot.close)
    writer = JobWriter(hot, hints.jobs_wait)
    watcher = JobWatcher(database)
    canceller = ExecutionCanceller()
    closing.push_async_callback(canceller.close)
    listener = Listener(
        database.direct_connection, {JOBS_CHANGED_CHANNEL: watcher.hint}, is_unavailable=is_unavailable
    )
    creator = JobCreator(
        JobTypeCatalog(database), writer, hints, flow, max_input_bytes=settings.max_input_bytes
    )
    jobs = JobsServicer(
        ServicerParts(
            database,
            creator=creator,
            watcher=watcher,
            canceller=canceller,
            hints=hints,
            flow=flow,
            files=store,
        )
    )
    files = FilesServicer(store)
    subscriptions = SubscriptionsServicer(database, hints, flow, allow_private=settings.webhook_allow_private)

    def add_jobs(server: grpc.aio.Server) -> None:
        jobs_service_pb2_grpc.add_JobsServiceServicer_to_server(jobs, server)

    def add_files(server: grpc.aio.Server) -> None:
        files_service_pb2_grpc.add_FilesServiceServicer_to_server(files, server)

    def add_subscriptions(server: grpc.aio.Server) -> None:
        subscriptions_service_pb2_grpc.add_SubscriptionsServiceServicer_to_server(subscriptions, server)

    async def drain() -> None:
        watcher.close()

    return Component(
        servicers={_JOBS: add_jobs, _FILES: add_files, _SUBSCRIPTIONS: add_subscriptions},
        background=(writer.run, watcher.run, canceller.run, hints.run, listener.run, flow.run),
        drain=drain,
    )


definition = ServiceDefinition(name="jobs", port=lambda settings: settings.jobs_port, open=_open)
"""The Jobs service: JobsService, FilesService and SubscriptionsService on one port."""
