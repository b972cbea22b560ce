"""`millrace files` and `millrace schedules` against the real services."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace_database.database import Database
from support.command_line import CommandLine
from support.whole_system import running_whole_system

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
async def millrace(database: Database, tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with running_whole_system(database, tmp_path / "data") as system:
        yield CommandLine(system.environment)


async def test_a_file_goes_up_and_comes_down_unchanged(millrace: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "numbers.bin").write_bytes(CONTENT)
    file = (await millrace.succeed("files", "upload", str(tmp_path / "numbers.bin"), "--json")).line
    assert (file["name"], file["sizeBytes"]) == ("numbers.bin", len(CONTENT))
    assert (await millrace.succeed("files", "get", file["fileId"], "--json")).line == file
    copies = tmp_path / "copies"
    copies.mkdir()
    download = await millrace.succeed("files", "download", file["fileId"], "--to", str(copies))
    assert download.stdout == f"{copies}/numbers.bin\n"
    assert (copies / "numbers.bin").read_bytes() == CONTENT
    again = await millrace.run("files", "download", file["fileId"], "--to", str(copies))
    assert again.code == 2
    assert "--force" in again.stderr
    await millrace.succeed("files", "download", file["fileId"], "--to", str(copies), "--force")


async def test_files_pass_through_standard_input_and_output(millrace: CommandLine) -> None:
    file = (
        await millrace.succeed("files", "upload", "-", "--name", "table.csv", "--json", stdin=b"a,b\n1,2\n")
    ).line
    assert file["contentType"] == "text/csv"
    assert (await millrace.succeed("files", "download", file["fileId"], "--to", "-")).stdout == "a,b\n1,2\n"
    assert "table.csv" in (await millrace.succeed("files", "list")).stdout


async def test_a_local_file_that_is_not_there_is_said_in_one_line(millrace: CommandLine) -> None:
    outcome = await millrace.run("files", "upload", "/no/such/file")
    assert outcome.code == 1
    assert outcome.stderr == "error: [Errno 2] No such file or directory: '/no/such/file'\n"


async def test_a_schedule_lives_its_life(millrace: CommandLine) -> None:
    created = await millrace.succeed(
        "schedules", "create", "Nightly", "toy:add", "--input", '{"a": 1}', "--weekly", "mon,Friday 03:30", "--time-zone",
        "Europe/Paris", "--json",
    )  # fmt: skip
    schedule = created.line
    assert schedule["recurrence"] == {"weekly": {"days": ["MONDAY", "FRIDAY"], "timeOfDay": "03:30"}}
    schedule_id = schedule["scheduleId"]
    assert (await millrace.succeed("schedules", "get", schedule_id, "--json")).line == schedule
    paused = await millrace.succeed("schedules", "pause", schedule_id, "--reason", "holidays", "--json")
    assert (paused.line["paused"], paused.line["pauseReason"]) == (True, "holidays")
    assert "paused" in (await millrace.succeed("schedules", "list")).stdout
    assert (await millrace.succeed("schedules", "resume", schedule_id, "--json")).line["paused"] is False
    job_id = (await millrace.succeed("schedules", "run", schedule_id)).stdout.strip()
    assert (await millrace.succeed("jobs", "get", job_id, "--json")).line["scheduleId"] == schedule_id
    assert (await millrace.succeed("schedules", "delete", schedule_id)).stdout == f"deleted {schedule_id}\n"
    assert (await millrace.succeed("schedules", "list", "--json")).lines == []
