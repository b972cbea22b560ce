from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from millrace.worker.v1 import worker_service_pb2_grpc
from millrace_database import Database
from millrace_runtime.service import Component, ServiceDefinition
from millrace_runtime.settings import Settings, StartupError
from millrace_storage import StoreUnusableError, open_usable_file_store
from millrace_worker.context import Resources
from millrace_worker.delivery_settings import DeliverySettings
from millrace_worker.engine import Engine
from millrace_worker.import_failure import describe_import_failure
from millrace_worker.registry import Registry, load_handlers
from millrace_worker.retention_settings import retention_of
from millrace_worker.servicer import WorkerServicer

_WORKER = "millrace.worker.v1.WorkerService"

# Whatever handlers a worker runs, somebody must clean up.
_SYSTEM_JOBS = "millrace_worker.system_jobs"

_HOT_POOL_SIZE = 3
"""Connections for claims, settlements and progress: handlers that hold all of the service's own stop none of them."""

_DUTIES_POOL_SIZE = 2
"""Connections for what any worker does for all."""


def worker_service(
    registry: Registry | None = None, *, named_by: str = "MILLRACE_HANDLERS="
) -> ServiceDefinition:
    """Return the Worker service; without a registry it runs the handlers of the modules that the settings name.

    `named_by` is what stands before their names where people give them.
    """

    @asynccontextmanager
    async def open_worker(settings: Settings, database: Database) -> AsyncIterator[Component]:
        handlers = _load(settings, named_by) if registry is None else registry
        async with AsyncExitStack() as closing:
            try:
                files = await closing.enter_async_context(open_usable_file_store(database, settings))
            except StoreUnusableError as error:
                raise StartupError(str(error)) from None
            resources = Resources(
                database=database,
                files=files,
                delivery=DeliverySettings.of(settings),
                retention=retention_of(settings),
                storage_cleanup_dry_run=settings.storage_cleanup_dry_run,
            )
            hot = await Database.open(
                database.url,
                application_name="millrace worker engine",
                pool_size=_HOT_POOL_SIZE,
                keep_plans=True,
            )
            closing.push_async_callback(hot.close)
            duties = await Database.open(
                database.url, application_name="millrace worker duties", pool_size=_DUTIES_POOL_SIZE
            )
            closing.push_async_callback(duties.close)
            engine = Engine(settings, duties, handlers, resources, hot=hot)
            servicer = WorkerServicer(duties, engine.runner)

            def add_worker(server: grpc.aio.Server) -> None:
                worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)

            yield Component(
                servicers={_WORKER: add_worker},
                background=engine.background(),
                drain=engine.drain,
                # It hardly serves calls, and an idle worker should ask little of the database.
                ping_seconds=20.0,
                started=engine.started,
            )

    return ServiceDefinition(name="worker", port=lambda settings: settings.worker_port, open=open_worker)


def _load(settings: Settings, named_by: str) -> Registry:
    try:
        return load_handlers((*settings.handlers, _SYSTEM_JOBS))
    except Exception as error:  # whatever it is, it is in the modules that were named
        said = describe_import_failure(error)
        raise StartupError(f"{named_by}{','.join(settings.handlers)}: {said}") from error


definition = worker_service()
"""The Worker service, with the handlers that MILLRACE_HANDLERS names."""
