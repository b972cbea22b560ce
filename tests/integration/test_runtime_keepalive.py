"""A call that is silent for long: clients ask meanwhile whether the connection lives."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from millrace_runtime import grpc_server
from millrace_runtime.grpc_server import LateServices, make_server
from millrace_runtime.settings import Settings

# Four pings: after the third one that comes too soon a server ends the connection.
_SILENT_SECONDS = 4.5


async def test_clients_may_ask_whether_the_connection_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    # A thousandth of what is between two pings of the SDK, and of what a service allows.
    quickly = tuple((name, 10 if value == 10_000 else value) for name, value in grpc_server._OPTIONS)
    monkeypatch.setattr(grpc_server, "_OPTIONS", quickly)
    server = make_server(Settings(), LateServices(), [])
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}",
            options=[("grpc.keepalive_time_ms", 30), ("grpc.http2.max_pings_without_data", 0)],
        ) as channel:
            silent = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="none"))
            await silent.read()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(silent.read(), _SILENT_SECONDS)
    finally:
        await server.stop(0)
