import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, TypeAlias

import asyncpg
import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millrace_database.database import Database

_Status: TypeAlias = int  # the enum comes without types
_Context = grpc.aio.ServicerContext[Any, Any]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_WHOLE_SERVER = ""

_RETRY_SECONDS = 1.0
_PING_TIMEOUT_SECONDS = 2.0
# A busy machine may be late with an answer once; twice in a row counts as an outage.
_TOLERATED_LATE_PINGS = 1

_log = structlog.get_logger()


class ServiceHealth:
    """What the server says of itself in gRPC's health protocol, for the whole server and for each service.

    NOT_SERVING at first. Until the names of the services are known, any name is answered so.
    """

    def __init__(self) -> None:
        self._servicer = _HealthServicer()
        self._names: tuple[str, ...] = (_WHOLE_SERVER,)
        self.is_serving = False
        self.database_answers = True

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the health protocol on `server`."""
        add_health: Any = health_pb2_grpc.add_HealthServicer_to_server
        add_health(self._servicer, server)

    def add_services(self, names: Iterable[str]) -> None:
        """Tell which services the server has, by full name."""
        self._names = (_WHOLE_SERVER, *names)
        self.set_serving(self.is_serving)

    def set_serving(self, serving: bool) -> None:
        """Say SERVING or NOT_SERVING, for all services; after `shut_down` nothing changes any more."""
        self.is_serving = serving
        self._servicer.set(dict.fromkeys(self._names, _SERVING if serving else _NOT_SERVING))

    def shut_down(self) -> None:
        """Say NOT_SERVING from now on."""
        self.is_serving = False
        self._servicer.shut_down()

    def end_watches(self) -> None:
        """End the watches of the health: a server that stops would wait for them in vain. Call it right before.

        Not earlier, since a client that still finds the server begins to watch again at once.
        """
        self._servicer.end_watches()


# The base class comes without types.
class _HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """As gRPC's own, except that a name is not serving, rather than unknown, until any is known, and that watches end."""

    def __init__(self) -> None:
        self._statuses: dict[str, _Status] = {}
        self._is_shut_down = False
        self._watches_end = False
        self._changed = asyncio.Event()

    def set(self, statuses: dict[str, _Status]) -> None:
        """Say from now on what `statuses` says of each name, unless the servicer is shut down."""
        if not self._is_shut_down:
            self._statuses = statuses
            self._tell()

    def shut_down(self) -> None:
        """Say NOT_SERVING from now on."""
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._is_shut_down = True
        self._tell()

    def end_watches(self) -> None:
        """End all watches, once they have said their last word."""
        self._watches_end = True
        self._tell()

    async def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, _context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        said = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            shown = _UNKNOWN if status is None else status
            if shown != said:
                said = shown
                yield health_pb2.HealthCheckResponse(status=shown)
            elif self._watches_end:
                return
            else:
                await changed.wait()

    def _status(self, name: str) -> _Status | None:
        return self._statuses.get(name, None if self._statuses else _NOT_SERVING)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def follow_database(database: Database, state: ServiceHealth, *, interval: float) -> None:
    """Keep `state` as the database is: NOT_SERVING while it does not answer. Never ends by itself.

    It is asked every `interval` seconds, and every second while it does not answer.
    """
    async with aclosing(_Probe(database)) as probe:
        late = 0
        while True:
            error = await probe.ping()
            late = late + 1 if isinstance(error, TimeoutError) else 0
            if not 0 < late <= _TOLERATED_LATE_PINGS:
                _report(error, state)
            await asyncio.sleep(interval if error is None else _RETRY_SECONDS)


class _Probe:
    """A connection for pings alone: one of the pool's may be late because the service is busy."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.Connection | None = None

    async def ping(self) -> Exception | None:
        """Return why the database does not answer, None when it does."""
        try:
            async with asyncio.timeout(_PING_TIMEOUT_SECONDS):
                if self._connection is None:
                    self._connection = await self._database.direct_connection()
                await self._connection.fetchval("SELECT 1")
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the database, the service waits for it
            await self.aclose()
            return error
        return None

    async def aclose(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _report(error: Exception | None, state: ServiceHealth) -> None:
    state.database_answers = error is None
    if state.database_answers == state.is_serving:
        return
    if error is None:
        _log.info("database found again")
    else:
        _log.warning("database lost", error=f"{type(error).__name__}: {error}")
    state.set_serving(error is None)
