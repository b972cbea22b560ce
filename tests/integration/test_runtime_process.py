"""A service as a process of its own: signals, exit codes, and what it says when it cannot start."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from support import toy_service
from support.processes import eventually_health, free_port

CANNOT_START = 2


@dataclass
class ToyProcess:
    process: asyncio.subprocess.Process
    address: str

    async def end(self, *, within: float) -> tuple[int, str, list[str]]:
        """Wait for its end; give its exit code, standard output, and the lines on standard error."""
        output, errors = await asyncio.wait_for(self.process.communicate(), within)
        assert self.process.returncode is not None
        return self.process.returncode, output.decode().strip(), errors.decode().splitlines()


@asynccontextmanager
async def toy_process(
    database_url: str,
    *arguments: str,
    settings: Mapping[str, str] = MappingProxyType({}),
    stdin: int | None = None,
) -> AsyncIterator[ToyProcess]:
    port = str(free_port())
    environment = {
        **os.environ,
        "MILLRACE_DATABASE_URL": database_url,
        "MILLRACE_LOG_FORMAT": "json",
        "MILLRACE_JOBS_PORT": port,
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(toy_service.__file__)), *arguments),
        env=environment,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield ToyProcess(process, f"127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _stop_begun(toy: ToyProcess) -> None:
    """Wait until it says that it stops."""
    assert toy.process.stderr is not None
    async with asyncio.timeout(20):
        while json.loads(await toy.process.stderr.readline())["event"] != "stopping":
            pass


async def test_sigterm_drains_and_ends_with_0(database_url: str) -> None:
    async with toy_process(database_url) as toy:
        await eventually_health(toy.address, serving=True)
        toy.process.send_signal(signal.SIGTERM)
        exit_code, output, errors = await toy.end(within=10)
    assert exit_code == 0
    assert output.endswith("drained duty ended closed")
    events = [json.loads(line) for line in errors]
    assert {event["service"] for event in events} == {"toy"}
    assert [event["event"] for event in events if event["event"] != "call"] == [
        "listening",
        "callers are not authenticated",
        "serving",
        "stopping",
        "stopped",
    ]


async def test_sigint_does_the_same_and_a_misspelt_setting_is_logged(database_url: str) -> None:
    async with toy_process(database_url, settings={"MILLRACE_JOB_PORT": "1"}) as toy:
        await eventually_health(toy.address, serving=True)
        toy.process.send_signal(signal.SIGINT)
        exit_code, output, errors = await toy.end(within=10)
    assert exit_code == 0
    assert output.endswith("drained duty ended closed")
    assert json.loads(errors[0])["variable"] == "MILLRACE_JOB_PORT"


async def test_sigterm_ends_it_while_the_database_is_away() -> None:
    async with toy_process(f"postgresql://127.0.0.1:{free_port()}/nowhere") as toy:
        assert toy.process.stderr is not None
        events = []
        async with asyncio.timeout(20):
            while "waiting for the database" not in events:
                events.append(json.loads(await toy.process.stderr.readline())["event"])
        toy.process.send_signal(signal.SIGTERM)
        exit_code, _, _ = await toy.end(within=10)
    assert exit_code == 0


async def test_a_second_signal_ends_it_at_once(database_url: str) -> None:
    settings = {"MILLRACE_SHUTDOWN_GRACE_SECONDS": "600"}
    async with toy_process(database_url, "endless-drain", settings=settings) as toy:
        await eventually_health(toy.address, serving=True)
        toy.process.send_signal(signal.SIGTERM)
        await _stop_begun(toy)
        toy.process.send_signal(signal.SIGTERM)
        exit_code, _, _ = await toy.end(within=10)
    assert exit_code == -signal.SIGTERM


async def test_a_drain_that_takes_too_long_is_cut_off(database_url: str) -> None:
    settings = {"MILLRACE_SHUTDOWN_GRACE_SECONDS": "0.2"}
    async with toy_process(database_url, "endless-drain", settings=settings) as toy:
        await eventually_health(toy.address, serving=True)
        toy.process.send_signal(signal.SIGTERM)
        exit_code, output, _ = await toy.end(within=10)
    assert exit_code == 0
    assert output.endswith("closed")


async def test_a_process_that_hangs_while_it_stops_is_ended(database_url: str) -> None:
    settings = {"MILLRACE_SHUTDOWN_GRACE_SECONDS": "0.2"}
    async with toy_process(database_url, "blocking-drain", settings=settings) as toy:
        await eventually_health(toy.address, serving=True)
        toy.process.send_signal(signal.SIGTERM)
        exit_code, _, errors = await toy.end(within=10)
    assert exit_code == 1
    assert errors[-1] == "millrace: something does not stop; ending the process"


async def test_a_duty_that_fails_ends_it_with_1_and_is_logged_once(database_url: str) -> None:
    async with toy_process(database_url, "failing-duty") as toy:
        exit_code, _, errors = await toy.end(within=20)
    assert exit_code == 1
    (failure,) = (event for event in map(json.loads, errors) if event["level"] == "error")
    assert failure["event"] == "service failed"
    assert "RuntimeError: the duty failed" in failure["exception"]


async def test_a_taken_port_is_said_in_one_line(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with toy_process(database_url, settings={"MILLRACE_JOBS_PORT": port}) as toy:
            exit_code, _, errors = await toy.end(within=20)
    assert exit_code == CANNOT_START
    assert errors == [f"millrace serve toy: cannot listen on 127.0.0.1:{port}: address already in use"]


async def test_a_host_that_others_reach_is_refused_in_one_line(database_url: str) -> None:
    async with toy_process(database_url, settings={"MILLRACE_HOST": "0.0.0.0"}) as toy:  # noqa: S104 - what is refused
        exit_code, _, errors = await toy.end(within=20)
    assert exit_code == CANNOT_START
    (line,) = errors
    assert line.startswith("millrace serve toy: MILLRACE_HOST=0.0.0.0 lets other machines call")


async def test_it_stops_when_its_supervisor_is_gone(database_url: str) -> None:
    ours, theirs = socket.socketpair()
    async with toy_process(database_url, "supervised", stdin=theirs.fileno()) as toy:
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        async with asyncio.timeout(20):
            assert (await reader.readline()).decode().strip() == toy.address
        await eventually_health(toy.address, serving=True)
        writer.close()
        await writer.wait_closed()
        exit_code, output, _ = await toy.end(within=10)
    assert exit_code == 0
    assert output.endswith("drained duty ended closed")


async def test_serve_names_the_services_there_are() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "millrace_runtime.serve_command", "job"), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == CANNOT_START
    assert errors.decode() == "millrace serve job: no such service; there are: jobs, scheduler, worker\n"


async def test_serve_names_the_setting_that_is_wrong() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "millrace_runtime.serve_command", "jobs"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "MILLRACE_JOBS_PORT": "70000"},
    )
    _, errors = await process.communicate()
    assert process.returncode == CANNOT_START
    assert errors.decode().startswith("millrace serve jobs: MILLRACE_JOBS_PORT: Input should be less than")
    assert errors.count(b"\n") == 1
