"""The HTTP server for presigned content, as a part of the service."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from millrace_runtime.addresses import join_host_port
from millrace_runtime.grpc_server import advertised_host
from millrace_runtime.settings import Settings, StartupError
from millrace_storage import FileStore, LocalObjectStore
from millrace_storage.presigned_server import PresignedServer

_log = structlog.get_logger()


@asynccontextmanager
async def serving_presigned_files(settings: Settings, files: FileStore) -> AsyncIterator[Callable[[], None]]:
    """Serve presigned requests until the end of the block, if new files are kept on this machine.

    Another kind of store serves its own. Gives what begins the end: no more requests are taken, and those at work have
    `shutdown_grace_seconds` from then on. Raises StartupError when the port is taken.
    """
    store = files.stores.default
    if not isinstance(store, LocalObjectStore):
        yield lambda: None
        return
    server = PresignedServer(
        store,
        settings.host,
        settings.files_port,
        advertised_host=advertised_host(settings),
        grace_seconds=settings.shutdown_grace_seconds,
    )
    try:
        await server.__aenter__()
    except OSError as error:
        address = join_host_port(settings.host, settings.files_port)
        # What asyncio makes of it says the address once more.
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise StartupError(f"MILLRACE_FILES_PORT: cannot listen on {address}: {reason}") from None
    _log.info("serving presigned files", url=server.url)
    ending: list[asyncio.Task[None]] = []

    def begin_to_end() -> None:
        if not ending:
            ending.append(asyncio.create_task(server.__aexit__(None, None, None)))

    try:
        yield begin_to_end
    finally:
        begin_to_end()
        await asyncio.gather(*ending)
