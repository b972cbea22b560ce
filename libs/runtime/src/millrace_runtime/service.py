import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import structlog

from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_runtime.addresses import join_host_port, local_host
from millrace_runtime.errors import sole_error
from millrace_runtime.grpc_server import (
    LateServices,
    advertised_address,
    bind,
    check_binding,
    log_binding,
    make_server,
)
from millrace_runtime.health import ServiceHealth, follow_database
from millrace_runtime.interceptor import CallInterceptor
from millrace_runtime.opening import retried_while_away, wait_for_schema
from millrace_runtime.settings import Settings, StartupError
from millrace_runtime.signals import stop_on_signal

# What calls get to end by themselves after a drain that took the whole grace period.
_LEAST_CALL_GRACE_SECONDS = 0.2

_log = structlog.get_logger()


async def _nothing_to_drain() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Component:
    """What an opened service gives to the runtime."""

    servicers: Mapping[str, Callable[[grpc.aio.Server], None]]
    """The full name of each gRPC service, and what adds it to the server."""

    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    """Duties that run for as long as the service does; they are cancelled at its end. One that raises ends the
    service: an outage of the database is theirs to ride out."""

    drain: Callable[[], Awaitable[None]] = _nothing_to_drain
    """Called once when the service stops, after its health says NOT_SERVING and before its server stops: ends
    streams, finishes or hands back work. Cancelled when it takes longer than `shutdown_grace_seconds`."""

    ping_seconds: float = 1.0
    """How often the database is asked whether it answers; while it does not, it is every second. So late may calls be
    refused, and the health say NOT_SERVING."""

    urls: Mapping[str, str] = field(default_factory=dict)
    """What it serves besides gRPC, by the name that people are told, and where clients reach it."""

    started: Callable[[str], Awaitable[None]] | None = None
    """Told the address ("host:port") at which other services reach this one, before the first call is let in."""


@dataclass(frozen=True, kw_only=True)
class ServiceDefinition:
    """A service, as the runtime runs it.

    `open` is entered once the database answers and its schema is current, and left after everything else has
    ended. When it, or `Component.started`, finds the database away, it is tried again.
    """

    name: str
    port: Callable[[Settings], int]
    open: Callable[[Settings, Database], AbstractAsyncContextManager[Component]]


class RunningService:
    """A service that runs in this process: an async context manager that owns the task it runs in.

    It listens as soon as the context is entered. Until the database answers with a current schema, health says
    NOT_SERVING and calls get UNAVAILABLE; then it opens. Leaving the context drains and stops it.
    """

    def __init__(
        self,
        definition: ServiceDefinition,
        settings: Settings,
        database: Database,
        *,
        on_open: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        """Take whom to tell the component's URLs, before health says SERVING."""
        self._on_open = on_open
        self._definition = definition
        self._settings = settings
        self._database = database
        self._health = ServiceHealth()
        self._listening = asyncio.Event()
        self._open = asyncio.Event()
        self._stopping = asyncio.Event()
        self._port = 0

    @property
    def address(self) -> str:
        """Where this machine reaches the service, as "host:port"."""
        return join_host_port(local_host(self._settings.host), self._port)

    async def wait_until_open(self) -> None:
        """Wait until calls are let in. Raises what ended the service if it ends before."""
        await self._until(self._open)

    async def wait_until_ended(self) -> None:
        """Wait until the service has ended, for whatever reason; leaving the context then raises it."""
        await asyncio.wait([self._task])

    def request_stop(self) -> None:
        """Begin to drain and stop, if that has not begun yet."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if not self._open.is_set():
            self._task.cancel()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"service {self._definition.name}")
        try:
            await self._until(self._listening)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()
        if not self._task.cancelled():
            self._task.result()

    async def _until(self, event: asyncio.Event) -> None:
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not event.is_set():
            self._task.result()

    async def _end(self) -> None:
        self.request_stop()
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise

    async def _run(self) -> None:
        try:
            await self._live()
        except Exception as raised:  # noqa: BLE001 - raised again, out of its group
            error = sole_error(raised)
            if not (self._stopping.is_set() and is_unavailable(error)):
                raise error from None
            _log.warning("the database was away while the service stopped", error=str(error))

    async def _live(self) -> None:
        check_binding(self._settings)
        services = LateServices()
        server = make_server(self._settings, services, [CallInterceptor(self._lets_calls_in)])
        self._health.add_to(server)
        self._port = bind(server, self._settings.host, self._definition.port(self._settings))
        async with AsyncExitStack() as closing:
            closing.push_async_callback(server.stop, None)
            await _start(server)
            _log.info("listening", address=self.address)
            log_binding(self._settings)
            self._listening.set()
            component = await self._opened_component(closing)
            services.add(component.servicers)
            # Calls end before what they use is closed.
            closing.push_async_callback(server.stop, None)
            await self._serve(component, server)

    def _lets_calls_in(self) -> bool:
        # During an outage each call would hold a connection until its statement times out.
        return self._open.is_set() and self._health.database_answers

    async def _opened_component(self, closing: AsyncExitStack) -> Component:
        await wait_for_schema(self._database)
        component = await retried_while_away(
            lambda: closing.enter_async_context(self._definition.open(self._settings, self._database))
        )
        if (started := component.started) is not None:
            address = advertised_address(self._settings, self._port)
            await retried_while_away(lambda: started(address))
        return component

    async def _serve(self, component: Component, server: grpc.aio.Server) -> None:
        self._health.add_services(component.servicers)
        async with asyncio.TaskGroup() as duties:
            running = [duties.create_task(duty()) for duty in component.background]
            following = duties.create_task(
                follow_database(self._database, self._health, interval=component.ping_seconds)
            )
            self._open.set()
            if self._on_open is not None:
                self._on_open(component.urls)
            self._health.set_serving(True)
            _log.info("serving", services=list(component.servicers))
            try:
                await self._stopping.wait()
            finally:
                # Also when a duty has failed, and the others take their time to end.
                following.cancel()
                self._health.shut_down()
            await self._drain(component, server)
            for task in running:
                task.cancel()

    async def _drain(self, component: Component, server: grpc.aio.Server) -> None:
        _log.info("stopping")
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.shutdown_grace_seconds
        try:
            async with asyncio.timeout_at(deadline) as limit:
                await component.drain()
        except TimeoutError:
            if not limit.expired():
                raise
            _log.error("draining took too long and was cut off")
        self._health.end_watches()
        await server.stop(max(deadline - now(), _LEAST_CALL_GRACE_SECONDS))


async def _start(server: grpc.aio.Server) -> None:
    # gRPC does not bear the cancellation of a start: its server would go on, without anybody to stop it.
    starting = asyncio.ensure_future(server.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await starting
        raise


@asynccontextmanager
async def running(
    definition: ServiceDefinition, settings: Settings, database: Database, *, wait_until_open: bool = True
) -> AsyncIterator[RunningService]:
    """Run a service in this process: what `run_service` does, without signals and on a given database.

    Gives the service once calls are let in, or, without `wait_until_open`, as soon as it listens. At the end of the
    block the service is drained and stopped; whatever ended it before then is raised there.
    """
    async with RunningService(definition, settings, database) as service:
        if wait_until_open:
            await service.wait_until_open()
        yield service


async def run_service(
    definition: ServiceDefinition,
    settings: Settings,
    *,
    on_listening: Callable[[str], None] | None = None,
    on_open: Callable[[Mapping[str, str]], None] | None = None,
) -> None:
    """Run a service as the process it is, until SIGTERM or SIGINT; a second signal ends the process at once.

    `on_listening` is told the address where this machine reaches it, `on_open` the component's URLs. Raises StartupError when the settings do not
    let it start, and whatever ends one of its background duties.
    """
    if settings.database_url is None:
        raise StartupError("MILLRACE_DATABASE_URL is not set")
    try:
        database = await Database.open(
            settings.database_url,
            application_name=f"millrace {definition.name}",
            pool_size=settings.database_pool_size,
        )
    except ValueError as error:
        raise StartupError(f"MILLRACE_DATABASE_URL: {error}") from None
    service = RunningService(definition, settings, database, on_open=on_open)
    try:
        with stop_on_signal(service.request_stop, settings.shutdown_grace_seconds):
            async with service:
                if on_listening is not None:
                    on_listening(service.address)
                await service.wait_until_ended()
    finally:
        await database.close()
    _log.info("stopped")
