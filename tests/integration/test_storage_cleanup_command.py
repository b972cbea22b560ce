"""How a clean-up is run: by workers every hour, and by `millrace clean-up`."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from millrace_database.database import Database
from millrace_storage.local_object_store import LocalObjectStore
from millrace_worker.registry import load_handlers
from support.command_line import CommandLine
from support.scheduler_api import scheduling
from support.stored_files import AGO, StoredFiles
from support.system_runs import ended, make_due
from support.worker_runs import worker

_TYPE = "storage:cleanup"


@pytest.fixture
def files(database: Database, tmp_path: Path) -> StoredFiles:
    return StoredFiles(database, LocalObjectStore(tmp_path / "files"))


@pytest.fixture
def command(database_url: str, tmp_path: Path) -> CommandLine:
    return CommandLine({"MILLRACE_DATABASE_URL": database_url, "MILLRACE_DATA_DIR": str(tmp_path)})


async def test_the_command_says_what_it_removed(files: StoredFiles, command: CommandLine) -> None:
    await files.file("temporary", AGO, content=b"12345")
    kept = (await files.file())[1]

    dry = await command.succeed("clean-up", "--dry-run", "--json")
    assert (dry.line["dry_run"], dry.line["files"]) == (True, {"count": 1, "bytes": 5})
    assert len(await files.keys()) == 2
    dry = await command.succeed("clean-up", "--dry-run")
    words, *_ = [line.split() for line in dry.stdout.splitlines() if "expired files" in line]
    assert words == ["expired", "files", "would", "be", "removed", "1", "5", "bytes"]

    wet = await command.succeed("clean-up")
    assert [line.split() for line in wet.stdout.splitlines() if "expired files" in line] == [
        ["expired", "files", "removed", "1", "5", "bytes"]
    ]
    assert await files.keys() == {kept}


async def test_the_command_fails_when_something_could_not_be_removed(
    files: StoredFiles, command: CommandLine
) -> None:
    await files.removal(provider="s3")
    outcome = await command.run("clean-up", "--json")
    assert outcome.code == 1
    assert outcome.line["waiting"] == {"count": 1, "bytes": 1}
    assert outcome.line["problems"] == outcome.stderr.removeprefix("millrace clean-up: ").splitlines()
    assert "s3" in outcome.stderr

    dry = await command.succeed("clean-up", "--dry-run")
    assert [line.split() for line in dry.stdout.splitlines() if "waiting" in line] == [
        ["objects", "waiting", "to", "be", "removed", "1", "1", "bytes"]
    ]


async def test_the_command_says_what_to_do_about_an_old_schema(
    database: Database, command: CommandLine
) -> None:
    async with database.connection() as conn:
        await conn.execute("UPDATE millrace_schema_version SET version_num = '0007'")
    outcome = await command.run("clean-up")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "run: millrace migrate" in outcome.stderr


async def test_the_command_says_that_there_can_be_no_such_database(tmp_path: Path) -> None:
    settings = {"MILLRACE_DATABASE_URL": "mysql://x:secret@y/z", "MILLRACE_DATA_DIR": str(tmp_path)}
    outcome = await CommandLine(settings).run("clean-up")
    assert (outcome.code, outcome.stdout) == (2, "")
    [line] = outcome.stderr.splitlines()
    assert line.startswith("millrace clean-up: MILLRACE_DATABASE_URL: ")
    assert "secret" not in line


@pytest.mark.parametrize("name", ["clean-up", "maintenance"])
async def test_commands_make_no_database_where_there_is_none(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    outcome = await CommandLine({"MILLRACE_DATA_DIR": str(folder)}).run(name, "--dry-run")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.splitlines() == [
        f"millrace {name}: there is no embedded database in {folder} (MILLRACE_DATA_DIR), and MILLRACE_DATABASE_URL is not set"
    ]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"ENDPOINT": "127.0.0.1:9000"},
            "ENDPOINT: there can be no such server; give a URL such as https://s3.example.com",
        ),
        (
            {"PUBLIC_ENDPOINT": "no url"},
            "PUBLIC_ENDPOINT: there can be no such server; give a URL such as https://s3.example.com",
        ),
        ({"REGION": "no region"}, "REGION: there can be no such region"),
    ],
)
async def test_the_command_says_that_there_can_be_no_such_store(
    database_url: str, database: Database, tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    settings = {
        "MILLRACE_DATABASE_URL": database_url,
        "MILLRACE_DATA_DIR": str(tmp_path),
        "MILLRACE_S3_BUCKET": "files",
        "MILLRACE_S3_ENDPOINT": "http://127.0.0.1:9000",
        **{f"MILLRACE_S3_{name}": value for name, value in wrong.items()},
    }
    outcome = await CommandLine(settings).run("clean-up")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.splitlines() == [f"millrace clean-up: MILLRACE_S3_{said}"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_worker_cleans_up_every_hour(files: StoredFiles, tmp_path: Path, dry_run: bool) -> None:
    await files.file("temporary", AGO, content=b"12345")
    registry = load_handlers(["millrace_worker.system_jobs"])
    with capture_logs() as logs:
        async with (
            scheduling(files.database),
            worker(files.database, registry, tmp_path, storage_cleanup_dry_run=dry_run),
        ):
            await make_due(files.database, _TYPE)
            row = await ended(files.database, _TYPE)

    assert (row["cron"], row["time_zone"], row["last_outcome"]) == ("0 * * * *", "UTC", "completed")
    [line] = [line for line in logs if line["event"] == "storage cleaned up"]
    assert (line["dry_run"], line["files"], line["files_bytes"]) == (dry_run, 1, 5)
    assert len(await files.keys()) == int(dry_run)


async def test_a_run_that_could_not_remove_everything_fails_at_its_end(
    files: StoredFiles, tmp_path: Path
) -> None:
    await files.removal(provider="s3")
    await files.file("temporary", AGO)
    registry = load_handlers(["millrace_worker.system_jobs"])
    async with scheduling(files.database), worker(files.database, registry, tmp_path):
        await make_due(files.database, _TYPE)
        row = await ended(files.database, _TYPE)
    assert row["last_outcome"] == "failed"
    assert "s3" in row["last_error"]
    assert await files.keys() == set()
