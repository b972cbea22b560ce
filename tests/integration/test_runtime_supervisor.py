import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from millrace_database.connection_url import with_database
from millrace_runtime import supervisor
from millrace_runtime.supervisor import SupervisedProcess, SupervisionError
from support import toy_service
from support.processes import eventually_health, set_dead_proxy


def _toy(database_url: str, *arguments: str, port: int = 0) -> SupervisedProcess:
    return SupervisedProcess(
        "toy",
        [sys.executable, str(Path(toy_service.__file__)), "supervised", *arguments],
        {**os.environ, "MILLRACE_DATABASE_URL": database_url, "MILLRACE_JOBS_PORT": str(port)},
        port_variable="MILLRACE_JOBS_PORT",
    )


@asynccontextmanager
async def _started(toy: SupervisedProcess) -> AsyncIterator[SupervisedProcess]:
    try:
        await toy.start()
        yield toy
    finally:
        await toy.stop(within_seconds=10)


def _processes() -> list[psutil.Process]:
    """The toys that this process has started and that still run."""
    return [child for child in psutil.Process().children() if toy_service.__file__ in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        # It has ended, of another test perhaps.
        return ""


def _process() -> psutil.Process:
    (process,) = _processes()
    return process


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.05)


async def test_a_process_that_dies_comes_back_at_its_address(database_url: str) -> None:
    async with _started(_toy(database_url)) as toy:
        await toy.wait_until_serving()
        address, first = toy.address, _process()
        assert os.getpgid(first.pid) == first.pid  # Ctrl-C in a terminal does not reach it
        keeping = asyncio.create_task(toy.keep_alive())
        first.kill()
        await _until(lambda: not psutil.pid_exists(first.pid))
        await eventually_health(address, serving=True)
        assert _process().pid != first.pid
        assert toy.address == address
        keeping.cancel()
    assert _processes() == []


async def test_a_process_is_asked_past_the_proxy_of_the_environment(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_dead_proxy(monkeypatch)
    async with _started(_toy(database_url)) as toy:
        monkeypatch.setattr(supervisor, "_START_SECONDS", 10)
        await toy.wait_until_serving()


async def test_a_process_that_cannot_start_is_an_error(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        toy = _toy(database_url, port=taken.getsockname()[1])
        with pytest.raises(SupervisionError, match="toy did not start: exit code 2"):
            await toy.start()
        await toy.stop(within_seconds=10)


async def test_a_process_that_dies_before_it_serves_is_an_error(database_url: str) -> None:
    async with _started(_toy(with_database(database_url, "nowhere"))) as toy:
        with pytest.raises(SupervisionError, match="toy ended before it was ready: exit code 2"):
            await toy.wait_until_serving()


async def test_a_process_that_never_serves_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _started(_toy("postgresql://127.0.0.1:1/nowhere")) as toy:
        monkeypatch.setattr(supervisor, "_START_SECONDS", 0.3)
        with pytest.raises(SupervisionError, match="toy was not ready within"):
            await toy.wait_until_serving()


async def test_a_process_that_dies_too_often_is_given_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_MOST_DEATHS", 2)
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_SECONDS", 0.01)
    async with _started(_toy(database_url, "failing-duty")) as toy:
        with pytest.raises(
            SupervisionError, match="toy died 2 times within 30 s, the last time with exit code 1"
        ):
            await toy.keep_alive()


async def test_a_process_that_does_not_stop_is_killed(database_url: str) -> None:
    toy = _toy(database_url, "blocking-drain")
    async with _started(toy):
        await toy.wait_until_serving()
        process = _process()
        await toy.stop(within_seconds=0.1)
        assert not process.is_running()


async def test_a_stopped_process_has_drained(database_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    async with _started(_toy(database_url)) as toy:
        await toy.wait_until_serving()
    assert capfd.readouterr().out.strip().endswith("drained duty ended closed")
