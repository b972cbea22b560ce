"""The maintenance as a system schedule and as a command."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from millrace_database.database import Database
from millrace_worker import Registry
from millrace_worker.registry import load_handlers
from millrace_worker.system_jobs.database_maintenance import maintain_database
from support.command_line import CommandLine
from support.scheduler_api import scheduling
from support.system_runs import NEVER_IN_TESTS, ended, make_due
from support.worker_runs import fetch, worker

_TYPE = "database:maintenance"

_ADD_JOBS = """
INSERT INTO jobs (job_id, org_id, type, status, created_at, completed_at, max_attempts)
SELECT (lpad(to_hex((extract(epoch FROM now() - $1::interval) * 1000)::bigint), 12, '0') || '7000' || lpad(to_hex(n), 16, '8'))::uuid,
    'acme', 'a', 'completed', now() - $1::interval, now() - $2::interval, 4
FROM generate_series(1, 10) AS n
"""
_ADD_INVALID_INDEX = """
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'datasets_by_name'::regclass
"""


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.system_schedule(_TYPE, NEVER_IN_TESTS)(maintain_database)
    return registry


async def _run(database: Database, registry: Registry, folder: Path) -> Any:
    async with scheduling(database), worker(database, registry, folder, retention_completed=2):
        await make_due(database, _TYPE)
        return await ended(database, _TYPE)


def test_every_worker_brings_it_along() -> None:
    schedules = {
        schedule.type: schedule
        for schedule in load_handlers(["millrace_worker.system_jobs"]).system_schedules
    }
    assert (schedules[_TYPE].published.cron, schedules[_TYPE].published.time_zone) == ("30 3 * * *", "UTC")


async def test_a_run_does_what_the_settings_say_and_tells_what_it_did(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    await fetch(database, _ADD_JOBS, timedelta(days=9), timedelta(days=3))
    # So that no sweep finds them.
    await fetch(
        database,
        "INSERT INTO retention_sweeps (age, next_at) SELECT age, now() + interval '1 day' FROM unnest($1::interval[]) AS age",
        [timedelta()]
        + [
            timedelta(days=d) + lag
            for d in (2, 30)
            for lag in (timedelta(minutes=10), timedelta(hours=3), timedelta(days=1))
        ],
    )
    await fetch(database, _ADD_INVALID_INDEX)
    with capture_logs() as lines:
        row = await _run(database, registry, tmp_path)

    assert (row["last_outcome"], row["last_error"]) == ("completed", "")
    assert await fetch(database, "SELECT FROM jobs") == []
    (done,) = (line for line in lines if line["event"] == "database maintained")
    assert done["counts"]["jobs"] == {"visited": 10, "removed": 10}
    assert done["counts"]["file_usage"] == {"organisations": 0, "differed": 0}
    assert done["seconds"] >= max(done["step_seconds"].values())
    (hint,) = (line for line in lines if line["event"] == "database hint")
    assert (hint["name"], hint["command"]) == (
        "datasets_by_name",
        "REINDEX INDEX CONCURRENTLY datasets_by_name",
    )


async def test_a_run_in_which_a_step_failed_has_failed(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    await fetch(database, "ALTER TABLE file_usage RENAME TO hidden")
    with capture_logs() as lines:
        row = await _run(database, registry, tmp_path)

    assert row["last_outcome"] == "failed"
    assert (
        '1 of 10 steps failed (file_usage); the first: relation "file_usage" does not exist'
        in row["last_error"]
    )
    (failed,) = (line for line in lines if "a step of the database maintenance failed" in line["event"])
    assert failed["step"] == "file_usage"
    assert [line["event"] for line in lines if line["event"] == "database maintained"]


async def test_the_command_prints_what_it_would_do_and_then_does_it(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    await fetch(database, _ADD_JOBS, timedelta(days=99), timedelta(days=31))
    command = CommandLine({"MILLRACE_DATABASE_URL": database_url, "MILLRACE_DATA_DIR": str(tmp_path)})

    dry = await command.run("maintenance", "--dry-run")
    assert (dry.code, dry.stderr) == (0, "")
    assert "visited 10, removed 10" in dry.stdout
    assert "nothing was changed (dry run)" in dry.stdout
    assert len(await fetch(database, "SELECT FROM jobs")) == 10

    done = await command.run("maintenance", "--json")
    assert (done.code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["steps"][0]["counts"] == {"visited": 10, "removed": 10}
    assert not report["dry_run"]
    assert "jobs_by_org" in [index["name"] for index in report["indexes"]]
    assert await fetch(database, "SELECT FROM jobs") == []


async def test_the_command_says_which_steps_failed(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    await fetch(database, "ALTER TABLE file_usage RENAME TO hidden")
    command = CommandLine({"MILLRACE_DATABASE_URL": database_url, "MILLRACE_DATA_DIR": str(tmp_path)})
    outcome = await command.run("maintenance")
    assert outcome.code == 1
    assert outcome.stderr.startswith("millrace maintenance: 1 of 10 steps failed (file_usage)")
    assert "Traceback" not in outcome.stderr


async def test_the_command_says_in_one_line_that_there_is_no_database(tmp_path: Path) -> None:
    command = CommandLine(
        {"MILLRACE_DATABASE_URL": f"postgresql:///x?host={tmp_path}", "MILLRACE_DATA_DIR": str(tmp_path)}
    )
    outcome = await asyncio.wait_for(command.run("maintenance"), 60)
    assert outcome.code == 1
    assert outcome.stderr.startswith("millrace maintenance: ")
    assert len(outcome.stderr.splitlines()) == 1
