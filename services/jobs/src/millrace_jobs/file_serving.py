"""The HTTP server for presigned content, as a part of the service."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from millrace_runtime.addresses import join_host_port
from millrace_runtime.grpc_server import advertised_host
from millrace_runtime.settings import Settings, StartupError
from millrace_storage import FileStore, LocalObjectStore, StoreRefusedError, StoreUnavailableError

if TYPE_CHECKING:
    from millrace_storage.presigned_server import PresignedServer

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PresignedService:
    """What serves presigned requests."""

    url: str | None
    """The URL that they begin with; None: there is nothing to serve."""

    begin_to_end: Callable[[], None]
    """Takes no more requests; those at work have `shutdown_grace_seconds` from then on."""


@asynccontextmanager
async def serving_presigned_files(settings: Settings, files: FileStore) -> AsyncIterator[PresignedService]:
    """Serve presigned requests until the end of the block, if this machine keeps files or, of another time, has kept some.

    Another kind of store serves its own. Raises StartupError when the port is taken, or new files could not be served.
    """
    server = await _started(settings, files)
    if server is None:
        yield PresignedService(None, lambda: None)
        return
    _log.info("serving presigned files", url=server.url)
    ending: list[asyncio.Task[None]] = []

    def begin_to_end() -> None:
        if not ending:
            ending.append(asyncio.create_task(server.__aexit__(None, None, None)))

    try:
        yield PresignedService(server.url, begin_to_end)
    finally:
        begin_to_end()
        await asyncio.gather(*ending)


async def _started(settings: Settings, files: FileStore) -> "PresignedServer | None":
    """Return a server that listens; None: there is nothing to serve."""
    store = next((store for store in files.stores.all() if isinstance(store, LocalObjectStore)), None)
    if store is None:
        return None
    # Takes 2 MB, which those who keep no files here do not have to give.
    from millrace_storage.presigned_server import PresignedServer  # noqa: PLC0415

    server = PresignedServer(
        store,
        settings.host,
        settings.files_port,
        advertised_host=advertised_host(settings),
        grace_seconds=settings.shutdown_grace_seconds,
        max_requests=settings.max_concurrent_calls,
    )
    try:
        return await server.__aenter__()
    except OSError as error:
        address = join_host_port(settings.host, settings.files_port)
        # What asyncio makes of it says the address once more.
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        problem = f"MILLRACE_FILES_PORT: cannot listen on {address}: {reason}"
    except (StoreRefusedError, StoreUnavailableError) as error:
        problem = f"MILLRACE_DATA_DIR: cannot use {store.root}: {error}"
    if store is files.stores.default:
        raise StartupError(problem)
    _log.warning("older files cannot be served by HTTP", error=problem)
    return None
