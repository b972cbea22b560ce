"""What `millrace files` and `millrace jobs download` do with files that are kept, deleted, limited and shared."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from millrace_database.database import Database
from support.command_line import CommandLine
from support.whole_system import running_whole_system

CONTENT = b"airport,country\n" + b"TLL,EE\n" * 50_000


@pytest.fixture
async def millrace(database: Database, tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with running_whole_system(database, tmp_path / "data") as system:
        yield CommandLine(system.environment | {"TZ": "UTC"})


async def test_a_file_goes_straight_to_the_store_and_comes_back_by_url(
    millrace: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "airports.csv").write_bytes(CONTENT)
    sent = await millrace.succeed(
        "files", "upload", str(tmp_path / "airports.csv"), "--direct", "--temporary", "--json"
    )
    file = sent.line
    assert (file["state"], file["contentType"]) == ("FILE_STATE_TEMPORARY", "text/csv")
    assert "expiresAt" in file
    url = (await millrace.succeed("files", "url", file["fileId"], "--expires-in", "10m")).stdout.strip()
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        assert await answer.read() == CONTENT
        assert "airports.csv" in answer.headers["Content-Disposition"]
    refused = await millrace.run("files", "upload", "-", "--name", "a", "--direct")
    assert refused.code == 2
    assert "--direct" in refused.stderr


async def test_a_file_is_persisted_deleted_and_brought_back(millrace: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "airports.csv").write_bytes(CONTENT)
    file = (
        await millrace.succeed("files", "upload", str(tmp_path / "airports.csv"), "--temporary", "--json")
    ).line
    file_id = file["fileId"]
    kept = (await millrace.succeed("files", "persist", file_id, "--json")).line
    assert kept["state"] == "FILE_STATE_PERSISTENT"
    deleted = (await millrace.succeed("files", "delete", file_id, "--json")).line
    assert deleted["state"] == "FILE_STATE_DELETED"
    assert (await millrace.succeed("files", "list", "--json")).lines == []
    [listed] = (await millrace.succeed("files", "list", "--state", "deleted", "--json")).lines
    assert listed["fileId"] == file_id
    download = await millrace.run("files", "download", file_id, "--to", str(tmp_path / "copy"))
    assert download.code == 64 + 9
    assert (await millrace.succeed("files", "undelete", file_id, "--json")).line["state"] == kept["state"]
    await millrace.succeed("files", "download", file_id, "--to", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == CONTENT
    gone = await millrace.succeed("files", "delete", file_id, "--permanently")
    assert gone.stdout == f"deleted {file_id} permanently\n"
    assert (await millrace.run("files", "get", file_id)).code == 64 + 5


async def test_what_files_take_up_is_shown_and_limited(millrace: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "airports.csv").write_bytes(CONTENT)
    await millrace.succeed("files", "upload", str(tmp_path / "airports.csv"))
    limited = (await millrace.succeed("files", "limits", "--max-total-bytes", "400KiB", "--json")).line
    assert limited["limits"]["maxTotalBytes"] == 400 * 1024
    usage = (await millrace.succeed("files", "usage", "--json")).line
    assert (usage["totalBytes"], usage["files"]) == (len(CONTENT), 1)
    refused = await millrace.run("files", "upload", str(tmp_path / "airports.csv"))
    assert refused.code == 64 + 8
    assert refused.stderr.startswith("error: RESOURCE_EXHAUSTED")
    assert (await millrace.succeed("files", "usage", "--json")).line == usage


async def test_files_are_listed_by_what_is_known_of_them(millrace: CommandLine) -> None:
    for name in ("report-1.csv", "report-2.txt", "notes.csv"):
        await millrace.succeed("files", "upload", "-", "--name", name, stdin=b"a,b\n1,2\n")
    listed = (await millrace.succeed("files", "list", "--name", "report-", "--json")).lines
    assert [file["name"] for file in listed] == ["report-2.txt", "report-1.csv"]
    listed = (await millrace.succeed("files", "list", "--content-type", "text/csv", "--json")).lines
    assert [file["name"] for file in listed] == ["notes.csv", "report-1.csv"]


async def test_the_output_of_a_job_is_downloaded(millrace: CommandLine, tmp_path: Path) -> None:
    job = (
        await millrace.succeed(
            "jobs", "create", "toy:add", "--input", '{"a": 1, "b": 2}', "--watch", "--json"
        )
    ).lines[-1]
    copies = tmp_path / "copies"
    copies.mkdir()
    await millrace.succeed("jobs", "download", job["jobId"], "--to", str(copies))
    assert (copies / f"{job['jobId']}.json").read_text() == '{"sum": 3}'
    assert (await millrace.succeed("jobs", "download", job["jobId"], "--to", "-")).stdout == '{"sum": 3}'
    again = await millrace.run("jobs", "download", job["jobId"], "--to", str(copies))
    assert again.code == 2
