"""`millrace jobs` as its own process against the real services: what it prints, and how it ends."""

import asyncio
import contextlib
import json
import os
import pty
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace_database.database import Database
from support.command_line import CommandLine
from support.whole_system import running_whole_system


@pytest.fixture
async def millrace(database: Database, tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with running_whole_system(database, tmp_path / "data") as system:
        yield CommandLine(system.environment)


async def test_a_job_is_created_watched_shown_and_listed(millrace: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"a": 2, "b": 40}')
    watched = await millrace.succeed(
        "jobs",
        "create",
        "toy:add",
        "--input",
        f"@{tmp_path}/input.json",
        "--created-by",
        "ada",
        "--watch",
        "--json",
    )
    last = watched.lines[-1]
    assert (last["status"], last["output"], last["createdBy"]) == ("JOB_STATUS_COMPLETED", {"sum": 42}, "ada")
    assert last.items() <= (await millrace.succeed("--json", "jobs", "get", last["jobId"])).line.items()
    listed = await millrace.succeed("jobs", "list", "--type", "toy:add", "--status", "completed", "--json")
    assert [job["jobId"] for job in listed.lines] == [last["jobId"]]
    table = (await millrace.succeed("jobs", "list")).stdout.splitlines()
    assert table[0].split()[:4] == ["JOB", "ID", "TYPE", "STATUS"]
    assert table[1].split()[:4] == [last["jobId"], "toy:add", "COMPLETED", "100%"]
    details = (await millrace.succeed("jobs", "get", last["jobId"])).stdout
    assert f"jobId        {last['jobId']}".split() in [line.split() for line in details.splitlines()]


async def test_a_piped_watch_prints_a_line_for_each_change_and_the_output(millrace: CommandLine) -> None:
    outcome = await millrace.succeed(
        "jobs", "create", "toy:steps", "--input", "@-", "--watch", stdin=b'{"x": 1}'
    )
    *changes, output = outcome.stdout.splitlines()
    assert changes[-1] == "COMPLETED 100% 1/2 half way"
    assert {change.split()[0] for change in changes} <= {"PENDING", "PROCESSING", "COMPLETED"}
    assert json.loads(output) in ({}, None)


async def test_on_a_terminal_a_watch_draws_a_bar(millrace: CommandLine) -> None:
    terminal, its_output = pty.openpty()
    process = await millrace.start(
        "jobs", "create", "toy:add", "--input", '{"a": 1}', "--watch", stdout=its_output
    )
    os.close(its_output)
    async with asyncio.timeout(60):
        shown = await asyncio.to_thread(read_to_the_end, terminal)
        _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (0, b"")
    assert "━" in shown
    assert "COMPLETED" in shown
    assert shown.endswith('{"sum": 1}\r\n')


def read_to_the_end(terminal: int) -> str:
    read = b""
    with contextlib.suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as output:
        while chunk := output.read(4096):
            read += chunk
    return read.decode()


async def test_watching_a_job_that_fails_ends_with_1_and_says_why(millrace: CommandLine) -> None:
    outcome = await millrace.run("jobs", "create", "toy:fail", "--watch")
    assert outcome.code == 1
    assert "FAILED: OUT_OF_STOCK: none left" in outcome.stderr
    [job] = (await millrace.succeed("jobs", "list", "--json")).lines
    again = await millrace.run("jobs", "retry", job["jobId"], "--watch", "--json")
    assert again.code == 1
    assert again.lines[-1]["error"] == {"code": "OUT_OF_STOCK", "message": "none left", "retryable": False}
    assert again.lines[-1]["attempt"] == 2


async def test_a_waiting_job_is_cancelled(millrace: CommandLine) -> None:
    created = await millrace.succeed(
        "jobs", "create", "toy:add", "--input", '{"a": 1}', "--run-at", "2099-01-01T00:00:00Z", "--json"
    )
    assert created.line["runAt"] == "2099-01-01T00:00:00Z"
    cancelled = await millrace.succeed("jobs", "cancel", created.line["jobId"], "--json")
    assert cancelled.line["status"] == "JOB_STATUS_CANCELLED"
    watched = await millrace.run("jobs", "watch", created.line["jobId"])
    assert (watched.code, watched.stdout) == (1, "CANCELLED 0%\n")


async def test_ctrl_c_ends_a_watch_quietly_and_leaves_the_job_alone(millrace: CommandLine) -> None:
    created = await millrace.succeed("jobs", "create", "toy:wait", "--json")
    watch = await millrace.start("jobs", "watch", created.line["jobId"])
    assert watch.stdout is not None
    async with asyncio.timeout(30):
        while b"waiting" not in await watch.stdout.readline():
            assert watch.returncode is None
        watch.send_signal(signal.SIGINT)
        _, stderr = await watch.communicate()
    assert watch.returncode == 130
    assert stderr == b""
    now = (await millrace.succeed("jobs", "get", created.line["jobId"], "--json")).line
    assert now["status"] == "JOB_STATUS_PROCESSING"


async def test_each_bad_field_is_named_on_standard_error(millrace: CommandLine) -> None:
    outcome = await millrace.run("jobs", "create", "toy:add", "--input", '{"a": "two"}', "--json")
    assert outcome.code == 64 + 3
    assert outcome.stdout == ""
    message, *details = outcome.stderr.splitlines()
    assert message.startswith("error: INVALID_ARGUMENT")
    assert [detail for detail in details if detail.startswith("  input.a: ")] == details
    missing = await millrace.run("jobs", "get", "job_00000000000000000000000000000000")
    assert missing.code == 64 + 5
    assert missing.stderr.startswith("error: NOT_FOUND: ")


async def test_a_reader_that_stops_reading_is_no_error(millrace: CommandLine) -> None:
    for number in range(3):
        await millrace.succeed("jobs", "create", "toy:add", "--input", json.dumps({"a": number}))
    listing = await millrace.start("jobs", "list", "--json")
    assert listing.stdout is not None
    listing.stdout._transport.close()  # type: ignore[attr-defined]  # as `head` does once it has enough
    assert listing.stderr is not None
    async with asyncio.timeout(30):
        stderr = await listing.stderr.read()
        await listing.wait()
    assert stderr == b""


async def test_job_types_and_workers_are_listed(millrace: CommandLine) -> None:
    types = (await millrace.succeed("job-types", "--json")).lines
    assert [job_type["type"] for job_type in types] == ["toy:add", "toy:fail", "toy:steps", "toy:wait"]
    assert types[0]["timeout"] == "3600s"
    [worker] = (await millrace.succeed("workers", "--json")).lines
    assert worker["state"] == "WORKER_STATE_ACTIVE"
    assert "toy:add" in (await millrace.succeed("job-types")).stdout
    assert worker["workerId"] in (await millrace.succeed("workers")).stdout
    assert worker["workerId"] in (await millrace.succeed("workers", "list")).stdout
    for same in (("workers", "list", "--json"), ("--json", "workers"), ("workers", "--json", "list")):
        assert (await millrace.succeed(*same)).line["workerId"] == worker["workerId"]
