import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import asyncpg
import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from millrace_database.database import Database

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_WHOLE_SERVER = ""

_PING_SECONDS = 1.0
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

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the health protocol on `server`."""
        await self.set_serving(False)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def add_services(self, names: Iterable[str]) -> None:
        """Tell which services the server has, by full name."""
        self._names = (_WHOLE_SERVER, *names)
        await self.set_serving(self.is_serving)
        self._servicer.knows_services = True

    async def set_serving(self, serving: bool) -> None:
        """Say SERVING or NOT_SERVING, for all services; after `shut_down` nothing changes any more."""
        self.is_serving = serving
        for name in self._names:
            await self._servicer.set(name, _SERVING if serving else _NOT_SERVING)

    async def shut_down(self) -> None:
        """Say NOT_SERVING from now on."""
        self.is_serving = False
        await self._servicer.enter_graceful_shutdown()


# The base class comes without types.
class _HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's own, except that a name is not serving, rather than unknown, until the names are known."""

    knows_services = False

    async def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        if not self.knows_services:
            return health_pb2.HealthCheckResponse(status=_NOT_SERVING)
        return await super().Check(request, context)


async def follow_database(database: Database, state: ServiceHealth) -> None:
    """Keep `state` as the database is: NOT_SERVING while it does not answer. Never ends by itself."""
    async with aclosing(_Probe(database)) as probe:
        late = 0
        while True:
            error = await probe.ping()
            late = late + 1 if isinstance(error, TimeoutError) else 0
            if not 0 < late <= _TOLERATED_LATE_PINGS:
                await _report(error, state)
            await asyncio.sleep(_PING_SECONDS)


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


async def _report(error: Exception | None, state: ServiceHealth) -> None:
    state.database_answers = error is None
    if state.database_answers == state.is_serving:
        return
    if error is None:
        _log.info("database found again")
    else:
        _log.warning("database lost", error=f"{type(error).__name__}: {error}")
    await state.set_serving(error is None)
