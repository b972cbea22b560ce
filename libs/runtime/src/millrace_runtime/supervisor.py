"""Keeping processes alive; `supervised` is their side of it."""

import asyncio
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import grpc
import orjson
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millrace_runtime.addresses import DIRECTLY

_START_SECONDS = 60.0
_MOST_DEATHS = 5
_DEATHS_WITHIN_SECONDS = 30.0
_FIRST_DELAY_SECONDS = 0.5
_POLL_SECONDS = 0.1

_log = structlog.get_logger()


class SupervisionError(Exception):
    """A process did not start, or cannot be kept alive; the text names it.

    `exit_code` is that of one that ended before it was ready.
    """

    def __init__(self, text: str, *, exit_code: int | None = None) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class SupervisedProcess:
    """A process that says where it listens, and is started again when it dies.

    It runs in a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone. The port that it
    first listens on stays its port: it is handed on in the environment variable `port_variable`, and so are those of the URLs that it
    serves besides, in the `url_port_variables` of their names.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        port_variable: str,
        url_port_variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.address = ""
        self.urls: Mapping[str, str] = {}
        """What it serves besides gRPC, by name; known once it serves."""
        self._command = command
        self._environment = dict(environment)
        self._port_variable = port_variable
        self._url_port_variables = url_port_variables or {}
        self._process: asyncio.subprocess.Process | None = None
        self._link: asyncio.StreamWriter | None = None
        self._reports = asyncio.StreamReader()

    async def start(self) -> None:
        """Start the process and wait until it listens. Raises SupervisionError when it does not get that far."""
        self._reports = await self._spawn()
        try:
            async with asyncio.timeout(_START_SECONDS):
                address = (await self._reports.readline()).decode().strip()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            address = ""
        if not address:
            exit_code = await self._ended()
            raise SupervisionError(f"{self.name} did not start: exit code {exit_code}", exit_code=exit_code)
        self.address = address
        self._environment[self._port_variable] = address.rpartition(":")[2]

    async def wait_until_serving(self) -> None:
        """Wait until its health says SERVING. Raises SupervisionError when it ends before, or takes too long."""
        serving = asyncio.create_task(_serving(self.address))
        ended = asyncio.create_task(self._ended())
        try:
            await asyncio.wait([serving, ended], timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise SupervisionError(
                    f"{self.name} ended before it was ready: exit code {ended.result()}",
                    exit_code=ended.result(),
                )
            if not serving.done():
                raise SupervisionError(f"{self.name} was not ready within {_START_SECONDS:.0f} s")
            serving.result()
            # It was written before.
            self.urls = orjson.loads(await self._reports.readline() or b"{}")
            self._environment |= {
                variable: str(urlsplit(self.urls[url]).port)
                for url, variable in self._url_port_variables.items()
                if url in self.urls
            }
        finally:
            serving.cancel()
            ended.cancel()
            await asyncio.gather(serving, ended, return_exceptions=True)

    async def keep_alive(self) -> None:
        """Start the process again whenever it dies. Raises SupervisionError when it dies too often."""
        deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        while True:
            exit_code = await self._ended()
            deaths.append(time.monotonic())
            recent = [death for death in deaths if death > deaths[-1] - _DEATHS_WITHIN_SECONDS]
            if len(recent) == _MOST_DEATHS:
                raise SupervisionError(
                    f"{self.name} died {_MOST_DEATHS} times within {_DEATHS_WITHIN_SECONDS:.0f} s, "
                    f"the last time with exit code {exit_code}"
                )
            delay = _FIRST_DELAY_SECONDS * 2 ** (len(recent) - 1)
            _log.error("process died", process=self.name, exit_code=exit_code, restart_in_seconds=delay)
            await asyncio.sleep(delay)
            with suppress(SupervisionError):
                await self.start()
                _log.info("process started again", process=self.name, address=self.address)

    async def stop(self, within_seconds: float) -> None:
        """Ask the process to stop, and kill it if it has not ended in time."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_seconds):
                await self._ended()
        except TimeoutError:
            _log.error("process did not stop in time and is killed", process=self.name)
            self._signal(signal.SIGKILL)
            await self._ended()
        self._close_link()

    async def _spawn(self) -> asyncio.StreamReader:
        self._close_link()
        ours, theirs = socket.socketpair()
        with theirs:
            reader, self._link = await asyncio.open_connection(sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=theirs.fileno(), env=self._environment, process_group=0
            )
        return reader

    async def _ended(self) -> int:
        return 0 if self._process is None else await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()


async def _serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address, options=DIRECTLY) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for answer in health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            await asyncio.sleep(_POLL_SECONDS)
