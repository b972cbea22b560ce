import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from millrace.scheduler.v1 import scheduler_service_pb2_grpc
from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_database.system_schedules_repository import SYSTEM_SCHEDULES_CHANGED_CHANNEL
from millrace_queue import Listener, Notifier
from millrace_runtime.service import Component, ServiceDefinition
from millrace_runtime.settings import Settings
from millrace_scheduler.firing import Firing
from millrace_scheduler.jobs_client import open_jobs_client
from millrace_scheduler.schedule_fields import FieldRules
from millrace_scheduler.scheduler_servicer import SchedulerServicer
from millrace_scheduler.servicer_parts import ServicerParts
from millrace_scheduler.system_firing import SystemFiring

SCHEDULES_CHANGED_CHANNEL = "millrace_schedules_changed"
"""Where schedulers tell each other that a schedule has got a next time."""

_SCHEDULER = "millrace.scheduler.v1.SchedulerService"


@asynccontextmanager
async def _open(settings: Settings, database: Database) -> AsyncIterator[Component]:
    async with open_jobs_client(settings.jobs_address, max_message_bytes=settings.max_message_bytes) as jobs:
        firing = Firing(database, jobs)
        system_firing = SystemFiring(database)
        notifier = Notifier(database.connection, SCHEDULES_CHANGED_CHANNEL, is_unavailable=is_unavailable)
        listener = Listener(
            database.direct_connection,
            {
                SCHEDULES_CHANGED_CHANNEL: lambda _: firing.wake(),
                SYSTEM_SCHEDULES_CHANGED_CHANNEL: lambda _: system_firing.wake(),
            },
            is_unavailable=is_unavailable,
        )

        def changed() -> None:
            firing.wake()
            notifier.notify()

        rules = FieldRules(settings.max_input_bytes, allow_private=settings.webhook_allow_private)
        servicer = SchedulerServicer(ServicerParts(database, jobs, rules, changed))

        async def drain() -> None:
            await asyncio.gather(firing.drain(), system_firing.drain())

        def add(server: grpc.aio.Server) -> None:
            scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server)

        yield Component(
            servicers={_SCHEDULER: add},
            background=(firing.run, system_firing.run, notifier.run, listener.run),
            drain=drain,
        )


definition = ServiceDefinition(name="scheduler", port=lambda settings: settings.scheduler_port, open=_open)
"""The Scheduler service: SchedulerService, and the firing of schedules."""
