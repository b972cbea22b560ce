"""What `millrace files` and `millrace jobs download` do with files that are kept, deleted, limited and shared."""

import asyncio
import os
import shlex
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
    shown = (await millrace.succeed("files", "get", file_id)).stdout
    assert ["state", "PERSISTENT"] in map(str.split, shown.splitlines())
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


async def test_limits_are_shown_changed_one_by_one_and_given_back(millrace: CommandLine) -> None:
    async def limits(*options: str) -> dict[str, str]:
        shown = (await millrace.succeed("files", "limits", *options)).stdout
        return dict(line.split(maxsplit=1) for line in shown.splitlines())

    untouched = await limits()
    assert untouched == {
        "orgId": "acme",
        "totalBytes": "0",
        "files": "0",
        "maxTotalBytes": "no limit (default)",
        "maxFiles": "no limit (default)",
        "maxFileBytes": "5GiB (default)",
    }
    changed = await limits("--max-files", "7", "--max-total-bytes", "1500000")
    assert changed == untouched | {"maxFiles": "7", "maxTotalBytes": "1500000"}
    changed |= {"maxFileBytes": "no limit"}
    assert await limits("--max-file-bytes", "0") == changed
    assert await limits() == changed
    in_json = (await millrace.succeed("files", "limits", "--json")).line
    assert in_json["limits"] == in_json["ownLimits"]
    assert in_json["ownLimits"] == {"maxTotalBytes": 1_500_000, "maxFiles": 7, "maxFileBytes": 0}
    assert (await millrace.succeed("files", "usage")).stdout == (
        await millrace.succeed("files", "limits")
    ).stdout
    given_back = await limits("--max-file-bytes", "default", "--max-files", "DEFAULT")
    assert given_back == untouched | {"maxTotalBytes": "1500000"}
    in_json = (await millrace.succeed("files", "usage", "--json")).line
    assert in_json["ownLimits"] == {"maxTotalBytes": 1_500_000}
    assert in_json["limits"] == {"maxTotalBytes": 1_500_000, "maxFiles": 0, "maxFileBytes": 5 * 2**30}
    refused = await millrace.run("files", "limits", "--max-files", "many")
    assert (refused.code, 'nor "default"' in refused.stderr) == (2, True)


async def test_several_files_are_handled_at_once_and_one_that_fails_stops_no_other(
    millrace: CommandLine, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("a.csv", "none.csv", "b.csv")]
    for path in (paths[0], paths[2]):
        path.write_text(path.name)
    uploaded = await millrace.run("files", "upload", *map(str, paths), "--json")
    assert (uploaded.code, uploaded.stderr) == (1, f"error: {paths[1]}: No such file or directory\n")
    assert [file["name"] for file in uploaded.lines] == ["a.csv", "b.csv"]
    ids = [file["fileId"] for file in uploaded.lines]

    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "a.csv").write_text("mine")
    again = (await millrace.succeed("files", "upload", str(paths[2]), "--json")).line["fileId"]
    taken = f"{copies}/a.csv exists; --force replaces it"
    downloaded = await millrace.run("files", "download", *ids, "--to", str(copies))
    assert (downloaded.code, downloaded.stdout) == (2, f"{copies}/b.csv\n")
    assert downloaded.stderr == f"error: {ids[0]}: Invalid value for --to: {taken}\n"
    assert (copies / "a.csv").read_text() == "mine"
    twice = await millrace.run("files", "download", *ids, again, "--to", str(copies), "--force")
    assert (twice.code, twice.stdout) == (2, f"{copies}/a.csv\n{copies}/b.csv\n")
    assert twice.stderr.startswith(f"error: {again}: ")
    no_folder = await millrace.run("files", "download", *ids, "--to", str(tmp_path / "none"))
    assert (no_folder.code, "several files need a folder" in no_folder.stderr) == (2, True)

    unknown = "file_" + "0" * 32
    deleted = await millrace.run("files", "delete", ids[0], unknown, ids[1])
    assert deleted.code == 64 + 5
    assert deleted.stderr == f"error: NOT_FOUND: file {unknown} not found\n"
    assert deleted.stdout.splitlines() == [f"{ids[0]} DELETED a.csv", f"{ids[1]} DELETED b.csv"]
    undeleted = await millrace.succeed("files", "undelete", *ids)
    assert undeleted.stdout.splitlines() == [f"{ids[0]} PERSISTENT a.csv", f"{ids[1]} PERSISTENT b.csv"]
    away = await millrace.run("files", "delete", *ids, "--address", "127.0.0.1:1")
    assert (away.code, away.stderr.count("error:")) == (64 + 14, 1)
    named = await millrace.run("files", "upload", str(paths[0]), str(paths[2]), "--name", "c.csv")
    assert (named.code, "--name" in named.stderr) == (2, True)


async def test_uploads_are_begun_for_others_listed_confirmed_and_cancelled(millrace: CommandLine) -> None:
    async def listed(*options: str) -> list[str]:
        lines = (await millrace.succeed("files", "uploads", "list", "--json", *options)).lines
        return [upload["uploadId"] for upload in lines]

    begin = ("files", "uploads", "begin", "airports.csv", "--size", str(len(CONTENT)), "--json")
    first = (await millrace.succeed(*begin, "--expires-in", "10m", "--temporary")).line
    second = (await millrace.succeed(*begin)).line
    assert await listed() == [second["uploadId"], first["uploadId"]]
    assert await listed("--limit", "1") == [second["uploadId"]]
    assert await listed("--created-by", "nobody") == []
    table = (await millrace.succeed("files", "uploads", "list")).stdout.splitlines()
    assert [row.split()[:3] for row in table[1:]] == [
        [upload["uploadId"], "airports.csv", str(len(CONTENT))] for upload in (second, first)
    ]

    too_soon = await millrace.run("files", "uploads", "confirm", first["uploadId"])
    assert (too_soon.code, too_soon.stderr.startswith("error: FAILED_PRECONDITION")) == (64 + 9, True)
    async with (
        aiohttp.ClientSession() as session,
        session.request(first["method"], first["url"], headers=first["headers"], data=CONTENT) as answer,
    ):
        assert answer.status == 200
    file = (await millrace.succeed("files", "uploads", "confirm", first["uploadId"], "--json")).line
    assert (file["name"], file["sizeBytes"]) == ("airports.csv", len(CONTENT))
    assert file["state"] == "FILE_STATE_TEMPORARY"

    cancelled = await millrace.succeed("files", "uploads", "cancel", second["uploadId"])
    assert cancelled.stdout == f"cancelled {second['uploadId']}\n"
    assert await listed() == []
    too_late = await millrace.run("files", "uploads", "cancel", first["uploadId"])
    assert too_late.code == 64 + 9


async def test_the_request_of_an_upload_is_a_line_for_a_shell(millrace: CommandLine) -> None:
    name = "air ports[1-2].csv"
    begun = await millrace.succeed("files", "uploads", "begin", name, "--size", str(len(CONTENT)))
    *described, request = begun.stdout.splitlines()
    *options, url = shlex.split(request)
    # curl would send several files of such a name, and takes "-" for standard input.
    assert options == [
        *("curl", "--globoff", "--fail", "--request", "PUT"),
        *("--header", "Content-Type: text/csv", "--upload-file", f"./{name}"),
    ]
    header = {"Content-Type": "text/csv"}
    async with aiohttp.ClientSession() as session, session.put(url, headers=header, data=CONTENT) as answer:
        assert answer.status == 200
    upload_id = dict(line.split(maxsplit=1) for line in described)["uploadId"]
    await millrace.succeed("files", "uploads", "confirm", upload_id)


async def test_a_pipe_is_uploaded_as_it_comes(millrace: CommandLine, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "airports.csv").write_bytes(CONTENT)
    writer = await asyncio.create_subprocess_exec(
        "sh", "-c", 'cat "$0" > "$1"', tmp_path / "airports.csv", pipe
    )
    try:
        file = (await millrace.succeed("files", "upload", str(pipe), "--name", "airports.csv", "--json")).line
    finally:
        # It waits as long as nobody reads.
        if writer.returncode is None:
            writer.kill()
        await writer.wait()
    assert (file["name"], file["sizeBytes"]) == ("airports.csv", len(CONTENT))
    nameless = await millrace.run("files", "upload", str(pipe))
    assert (nameless.code, "--name" in nameless.stderr) == (2, True)
    direct = await millrace.run("files", "upload", str(pipe), "--name", "a", "--direct")
    assert (direct.code, "--direct" in direct.stderr) == (2, True)


async def test_what_is_wrong_with_a_path_is_said_in_words(millrace: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_bytes(CONTENT)
    nameless = await millrace.run("files", "upload", str(path))
    assert (nameless.code, "not UTF-8" in nameless.stderr, "--name" in nameless.stderr) == (2, True, True)
    file = (await millrace.succeed("files", "upload", str(path), "--name", "coffee.csv", "--json")).line
    assert file["sizeBytes"] == len(CONTENT)
    bad_name = await millrace.run("files", "upload", str(path), "--name", os.fsdecode(b"caf\xe9"))
    assert (bad_name.code, bad_name.stderr) == (2, "error: not UTF-8: caf\\udce9\n")
    no_folder = await millrace.run("files", "download", file["fileId"], "--to", f"{tmp_path}/none/a.csv")
    assert (no_folder.code, no_folder.stderr) == (1, f"error: {tmp_path}/none: No such file or directory\n")
    folder = await millrace.run("files", "upload", str(tmp_path))
    assert (folder.code, folder.stderr) == (1, f"error: {tmp_path}: Is a directory\n")


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
