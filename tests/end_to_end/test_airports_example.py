"""`examples/airports.py`, which `make run` runs: the whole system in one process tree, from nothing."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import openpyxl
import psutil

EXAMPLE = Path(__file__).parents[2] / "examples" / "airports.py"
# The children of a busy machine take their time to start, and more so beside other tests.
PATIENCE_SECONDS = 120
ENDING_SECONDS = 20


async def start(
    data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    ports = {f"MILLRACE_{service}_PORT": "0" for service in ("JOBS", "SCHEDULER", "WORKER", "FILES")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLE,
        *arguments,
        env={
            **inherited,
            **ports,
            "MILLRACE_DATA_DIR": str(data_dir),
            "COLUMNS": "200",
            **(environment or {}),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


async def read_until(process: asyncio.subprocess.Process, text: str) -> str:
    """Read standard output up to the line that contains the text, and return all that was read."""
    assert process.stdout is not None
    read = ""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while text not in read:
            line = await process.stdout.readline()
            assert line, read
            read += line.decode()
    return read


async def nothing_is_left_of(data_dir: Path) -> None:
    """Wait until no process works on the folder any more."""
    async with asyncio.timeout(ENDING_SECONDS):
        while left := [
            process.info["cmdline"]
            for process in psutil.process_iter(["cmdline", "environ"])
            if str(data_dir) in " ".join(process.info["cmdline"] or [])
            or (process.info["environ"] or {}).get("MILLRACE_DATA_DIR") == str(data_dir)
        ]:
            assert left
            await asyncio.sleep(0.1)


def airports_by_state(path: Path) -> dict[str, int]:
    sheet = openpyxl.load_workbook(path).active
    assert sheet is not None
    header, *rows = sheet.iter_rows(values_only=True)
    assert header == ("state", "airports")
    return {str(state): int(str(count)) for state, count in rows}


async def test_it_does_its_work_once_and_again_and_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    code, stdout, stderr = await finish(await start(data_dir, "--once"))
    assert (code, stderr) == (0, ""), stdout
    assert stdout.count("100% COMPLETED") == 3
    assert "3,376 rows loaded, 0 failed" in stdout
    report = data_dir / "airports-by-state.xlsx"
    assert f"All 57 states: {report}" in stdout
    counted = airports_by_state(report)
    assert (counted["AK"], counted["TX"], len(counted), sum(counted.values())) == (263, 209, 57, 3376)
    await nothing_is_left_of(data_dir)

    serving = await start(data_dir)
    shown = await read_until(serving, "keeps serving")
    assert airports_by_state(report) == counted
    pasted = await asyncio.create_subprocess_shell(
        shown.partition("from Python:\n")[2].partition("END\n\n")[0] + "END\n", stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await pasted.communicate()
    assert b"airports-by-state.xlsx" in answer
    serving.send_signal(signal.SIGTERM)
    code, stdout, stderr = await finish(serving)
    assert (code, stdout, stderr) == (0, "Stopping.\n", "")
    await nothing_is_left_of(data_dir)


async def test_ctrl_c_in_the_middle_stops_everything(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    process = await start(data_dir)
    await read_until(process, "Uploaded airports.csv")
    process.send_signal(signal.SIGINT)
    code, _, stderr = await finish(process)
    assert code == 1
    assert stderr == "stopped before the end\n"
    await nothing_is_left_of(data_dir)


async def test_a_port_that_is_taken_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, stderr = await finish(await start(data_dir, environment={"MILLRACE_JOBS_PORT": port}))
    assert code == 1
    assert "Traceback" not in stderr
    assert f"127.0.0.1:{port}" in stderr
    await nothing_is_left_of(data_dir)
