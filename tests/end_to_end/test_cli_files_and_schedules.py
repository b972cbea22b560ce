"""`millrace files` and `millrace schedules` against the real services."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace_database.database import Database
from support.command_line import CommandLine
from support.files_api import rows
from support.polling import eventually
from support.whole_system import running_whole_system

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
async def millrace(database: Database, tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with running_whole_system(database, tmp_path / "data") as system:
        yield CommandLine(system.environment | {"TZ": "UTC"})


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


async def test_ctrl_c_ends_an_upload_whose_standard_input_says_nothing(
    millrace: CommandLine, database: Database
) -> None:
    upload = await millrace.start("files", "upload", "-", "--name", "table.csv")
    assert upload.stdin is not None

    async def has_begun() -> bool:
        return await rows(database, "file_uploads") == 1

    async def is_over() -> bool:
        return await rows(database, "file_uploads") == 0

    async with asyncio.timeout(30):
        upload.stdin.write(b"a,b\n")
        await eventually(has_begun)
        upload.send_signal(signal.SIGINT)
        # Its standard input stays open all the while.
        assert await upload.wait() == 130
        await eventually(is_over)
    assert upload.stderr is not None
    assert await upload.stderr.read() == b""
    assert await rows(database) == 0


async def test_a_link_that_leads_nowhere_is_not_replaced_either(
    millrace: CommandLine, tmp_path: Path
) -> None:
    file = (await millrace.succeed("files", "upload", "-", "--name", "a", "--json", stdin=b"a")).line
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    outcome = await millrace.run("files", "download", file["fileId"], "--to", str(link))
    assert outcome.code == 2
    assert "--force" in outcome.stderr
    assert link.is_symlink()


async def test_a_folder_that_is_not_there_does_not_become_a_file(
    millrace: CommandLine, tmp_path: Path
) -> None:
    file = (await millrace.succeed("files", "upload", "-", "--name", "a", "--json", stdin=b"a")).line
    outcome = await millrace.run("files", "download", file["fileId"], "--to", f"{tmp_path}/new/")
    assert outcome.code == 2
    assert "there is no folder" in outcome.stderr
    assert not (tmp_path / "new").exists()


async def test_a_local_file_that_is_not_there_is_said_in_one_line(millrace: CommandLine) -> None:
    outcome = await millrace.run("files", "upload", "/no/such/file")
    assert outcome.code == 1
    assert outcome.stderr == "error: /no/such/file: No such file or directory\n"


async def test_a_schedule_lives_its_life(millrace: CommandLine) -> None:
    created = await millrace.succeed(
        "schedules", "create", "Nightly", "toy:add", "--input", '{"a": 1}', "--weekly", "mon,Friday 03:30", "--time-zone",
        "Europe/Paris", "--json",
    )  # fmt: skip
    schedule = created.line
    assert schedule["recurrence"] == {"weekly": {"days": ["MONDAY", "FRIDAY"], "timeOfDay": "03:30"}}
    schedule_id = schedule["scheduleId"]
    shown = (await millrace.succeed("schedules", "get", schedule_id, "--json")).line
    assert (len(shown.pop("nextRunTimes")), shown.pop("lastRuns")) == (10, [])
    assert shown == schedule
    paused = await millrace.succeed("schedules", "pause", schedule_id, "--reason", "holidays", "--json")
    assert (paused.line["paused"], paused.line["pauseReason"]) == (True, "holidays")
    assert "paused" in (await millrace.succeed("schedules", "list")).stdout
    assert (await millrace.succeed("schedules", "resume", schedule_id, "--json")).line["paused"] is False
    job_id = (await millrace.succeed("schedules", "run", schedule_id)).stdout.strip()
    assert (await millrace.succeed("jobs", "get", job_id, "--json")).line["scheduleId"] == schedule_id
    assert (await millrace.succeed("schedules", "delete", schedule_id)).stdout == f"deleted {schedule_id}\n"
    assert (await millrace.succeed("schedules", "list", "--json")).lines == []


async def test_a_schedule_is_changed_previewed_and_made_up_for(millrace: CommandLine) -> None:
    created = await millrace.succeed(
        "schedules", "create", "Nightly", "toy:add", "--input", '{"a": 1}', "--monthly", "last fri 03:30", "--time-zone",
        "Europe/Paris", "--overlap", "skip", "--catch-up", "run-all", "--catch-up-window", "2d", "--store",
        "reports/{{file_name}}", "--json",
    )  # fmt: skip
    schedule_id, version = created.line["scheduleId"], created.line["version"]
    assert created.line["overlapPolicy"] == "OVERLAP_POLICY_SKIP"
    assert created.line["delivery"] == {"storage": {"path": "reports/{{file_name}}"}, "onFailure": False}
    change = (
        "schedules",
        "update",
        schedule_id,
        "--if-version",
        str(version),
        "--daily",
        "03:30",
        "--catch-up",
        "skip",
    )
    changed = (await millrace.succeed(*change, "--clear", "delivery", "--json")).line
    assert changed["recurrence"] == {"daily": {"timeOfDay": "03:30"}}
    assert (changed["catchUpPolicy"], "catchUpWindow" in changed) == ("CATCH_UP_POLICY_SKIP", False)
    assert ("delivery" in changed, changed["overlapPolicy"]) == (False, "OVERLAP_POLICY_SKIP")
    late = await millrace.run(*change)
    assert late.code == 74
    assert late.stderr.startswith("error: ABORTED: ")
    preview = (
        await millrace.succeed("schedules", "preview", schedule_id, "--count", "3")
    ).stdout.splitlines()
    assert len(preview) == 3
    assert all(" 03:30:00+0" in line and line.endswith(" Europe/Paris") for line in preview)
    past = ("--from", "2026-01-01T00:00Z", "--to", "2026-01-03T00:00Z")
    backfilled = (await millrace.succeed("schedules", "backfill", schedule_id, *past)).stdout.splitlines()
    assert [line.split()[:2] for line in backfilled[1:3]] == [
        ["2026-01-01", "02:30:00"],
        ["2026-01-02", "02:30:00"],
    ]
    assert backfilled[3] == "jobs created: 2; times that had one: 0"
    runs = (await millrace.succeed("schedules", "runs", schedule_id, "--json")).lines
    assert [run["scheduledTime"] for run in runs] == ["2026-01-02T02:30:00Z", "2026-01-01T02:30:00Z"]
    assert {run["cause"] for run in runs} == {"RUN_CAUSE_BACKFILL"}
    shown = (await millrace.succeed("schedules", "show", schedule_id)).stdout
    assert preview[0] in shown
    assert runs[0]["jobId"] in shown
    assert (await millrace.succeed("schedules", "list", "--frequency", "weekly", "--json")).lines == []
    [listed] = (
        await millrace.succeed("schedules", "list", "--frequency", "daily", "--active", "--json")
    ).lines
    assert listed["scheduleId"] == schedule_id
    assert (await millrace.run("system-schedules", "run", "no:such")).code == 69
