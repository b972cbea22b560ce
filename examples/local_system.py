"""A Millrace of one's own: `millrace up` as a child process that ends with the block that started it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

START_SECONDS = 120
STOP_SECONDS = 15
READY = "millrace is ready"
SERVICES = ("jobs", "scheduler", "worker")


class LocalSystemError(Exception):
    """The system did not start, or ended by itself."""


class LocalSystem:
    """A running system."""

    def __init__(
        self, process: asyncio.subprocess.Process, addresses: dict[str, str], log_path: Path
    ) -> None:
        self.addresses = addresses
        """Where "jobs", "scheduler" and "worker" listen, as "host:port"."""
        self._process = process
        self._log_path = log_path

    async def serve(self) -> None:
        """Wait until the system ends by itself, which it should not do: then raises LocalSystemError."""
        await self._process.communicate()
        raise _error(self._process, self._log_path)


@asynccontextmanager
async def running_system(data_dir: Path) -> AsyncIterator[LocalSystem]:
    """Run a system for as long as the block lasts, with its log in `data_dir`/millrace.log.

    SIGTERM and SIGHUP end the block as Ctrl-C does. Raises LocalSystemError when the system does not start.
    """
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
    log_path = data_dir / "millrace.log"
    with log_path.open("ab") as log, _cancelled_by(signal.SIGTERM, signal.SIGHUP):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "millrace_client",
            "up",
            env=os.environ | {"MILLRACE_DATA_DIR": str(data_dir)},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            process_group=0,  # Ctrl-C reaches only this process, which then stops the system in an orderly way
        )
        try:
            yield LocalSystem(process, await _wait_until_ready(process, log_path), log_path)
        finally:
            await _stop(process)


async def _wait_until_ready(process: asyncio.subprocess.Process, log_path: Path) -> dict[str, str]:
    """Read what the system prints once it has started: a name and an address in each line, and that it is ready."""
    try:
        async with asyncio.timeout(START_SECONDS):
            return await _read_addresses(process, log_path)
    except TimeoutError:
        raise LocalSystemError(f"millrace was not ready after {START_SECONDS} s; see {log_path}") from None


async def _read_addresses(process: asyncio.subprocess.Process, log_path: Path) -> dict[str, str]:
    addresses: dict[str, str] = {}
    async for line in cast("asyncio.StreamReader", process.stdout):
        text = line.decode()
        if text.startswith(READY):
            return addresses
        name, _, address = text.partition(" ")
        if name in SERVICES:
            addresses[name] = address.strip()
    await process.wait()
    raise _error(process, log_path)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


@contextmanager
def _cancelled_by(*signals: signal.Signals) -> Iterator[None]:
    """Let these signals cancel the current task."""
    task = cast("asyncio.Task[object]", asyncio.current_task())
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _error(process: asyncio.subprocess.Process, log_path: Path) -> LocalSystemError:
    # What is meant for people stands between lines of JSON.
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if not line.startswith("{")]
    summary = f"millrace ended with exit code {process.returncode}; its log is {log_path}"
    return LocalSystemError("\n".join([summary, *lines[-3:]]))
