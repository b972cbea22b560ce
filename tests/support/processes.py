"""Millrace's services as real processes, to be killed."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

MILLRACE = Path(sys.executable).with_name("millrace")
READY_SECONDS = 90
_LEASH = Path(__file__).with_name("leash.py")
POLL_SECONDS = 0.05
_PORTS = range(10_000, 32_000)
_LOG_BYTES = 4000
# A process that does not listen yet is tried again soon; gRPC would wait for a second, and longer each time.
_TRY_SOON = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]


def free_port() -> int:
    """A TCP port that was free a moment ago.

    None of those that the system gives to outgoing connections: one of them could have it by the time it is listened at,
    even the one that asks there whether somebody listens yet.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


async def eventually_health(address: str, *, serving: bool, within: float = READY_SECONDS) -> None:
    """Waits until the server at the address says that it serves, or that it does not; raises TimeoutError."""
    async with asyncio.timeout(within), grpc.aio.insecure_channel(address, options=_TRY_SOON) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await health.Check(
                    health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=within
                )
            except grpc.aio.AioRpcError:
                await asyncio.sleep(POLL_SECONDS)
                continue
            if (answer.status == health_pb2.HealthCheckResponse.SERVING) == serving:
                return
            await asyncio.sleep(POLL_SECONDS)


@dataclass
class ServiceProcess:
    """`millrace serve NAME` as a child process; `start` may be called again after it has ended."""

    name: str
    environment: Mapping[str, str]
    log: Path
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self, *, ready: bool = True) -> None:
        """Starts the process and, unless told otherwise, waits until it says SERVING."""
        environment = {**os.environ, **self.environment, f"MILLRACE_{self.name.upper()}_PORT": str(self.port)}
        with self.log.open("ab") as log:
            leash = (sys.executable, "-I", "-S", _LEASH, str(os.getpid()))
            self.process = await asyncio.create_subprocess_exec(
                *leash, MILLRACE, "serve", self.name, env=environment, stdout=log, stderr=log
            )
        if ready:
            await self._eventually_ready()

    async def _eventually_ready(self) -> None:
        assert self.process is not None
        ended = asyncio.create_task(self.process.wait())
        ready = asyncio.create_task(eventually_health(self.address, serving=True))
        try:
            await asyncio.wait((ended, ready), return_when=asyncio.FIRST_COMPLETED)
            in_time = ready.done() and ready.exception() is None
            assert in_time, f"{self.name} is not ready: {self._last_words()}"
        finally:
            for task in (ended, ready):
                task.cancel()
            await asyncio.wait((ended, ready))

    def _last_words(self) -> str:
        return self.log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")

    async def kill(self) -> None:
        """Ends the process as a crash would."""
        await self._end(signal.SIGKILL)

    async def terminate(self, *, within: float = 10) -> int:
        """Asks the process to stop and returns its exit code; raises TimeoutError when it takes longer."""
        async with asyncio.timeout(within):
            return await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await self.process.wait()


@dataclass
class Stack:
    """The three services on one database."""

    jobs: ServiceProcess
    scheduler: ServiceProcess
    worker: ServiceProcess


@asynccontextmanager
async def stack(
    database_url: str,
    folder: Path,
    *,
    names: tuple[str, ...] = ("jobs", "scheduler", "worker"),
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Stack]:
    """Starts the named services as processes; whatever still runs at the end is killed."""
    jobs_port = free_port()
    environment = {
        "MILLRACE_DATABASE_URL": database_url,
        "MILLRACE_DATA_DIR": str(folder / "data"),
        "MILLRACE_JOBS_ADDRESS": f"127.0.0.1:{jobs_port}",
        "MILLRACE_FILES_PORT": "0",
        "MILLRACE_LOG_FORMAT": "json",
        **(settings or {}),
    }
    processes = {
        name: ServiceProcess(name, environment, folder / f"{name}.log")
        for name in ("jobs", "scheduler", "worker")
    }
    processes["jobs"].port = jobs_port
    async with AsyncExitStack() as exits:
        for process in processes.values():
            exits.push_async_callback(_kill_if_running, process)
        async with asyncio.TaskGroup() as starting:
            for name in names:
                starting.create_task(processes[name].start())
        yield Stack(**processes)


async def _kill_if_running(process: ServiceProcess) -> None:
    if process.process is not None:
        await process.kill()


def set_dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name an HTTP proxy that is not there, for all addresses."""
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
