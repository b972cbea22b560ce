"""A server of one service that a test has written."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc

_Servicer = TypeVar("_Servicer")


@asynccontextmanager
async def scripted_server(
    add: Callable[[_Servicer, grpc.aio.Server], None], servicer: _Servicer, port: int = 0
) -> AsyncIterator[str]:
    """Gives the address at which a service is served; `add` is its `add_…Servicer_to_server`, and `port` any that is free."""
    server = grpc.aio.server()
    add(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(grace=0)
