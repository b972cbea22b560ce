"""What the daily maintenance of the database does, and what it leaves alone."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database import leftovers
from millrace_database.database import Database
from millrace_database.database_maintenance import maintain
from millrace_database.ids import new_id
from millrace_database.job_options import RetentionRule, TypeOptions
from millrace_database.maintained_tables import MAINTAINED_TABLES
from support.queue_samples import created_jobs, new_worker, running_job, sample_job
from support.worker_runs import fetch, fetched

_MONTH = RetentionRule(timedelta(days=30), timedelta(days=30), timedelta(days=30))

_ADD_JOBS = """
INSERT INTO jobs (job_id, org_id, type, status, created_at, completed_at, max_attempts)
SELECT (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0') || '7000' || lpad(to_hex(n), 16, '8'))::uuid,
    'acme', $2, 'completed', time, now() - $4::interval, 4
FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT now() - $3::interval + n * interval '1 ms' AS time) AS derived
RETURNING job_id
"""
_ADD_ATTEMPT = "INSERT INTO job_attempts (job_id, fence, attempt, outcome) VALUES ($1, $2, 1, 'failed')"
_ADD_FILE = """
INSERT INTO files (file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, deleted_at, expires_at)
SELECT id, $1, 'a', 'text/plain', $2, '', 'local', id::text, CASE WHEN $3 THEN now() END,
    CASE WHEN $3 THEN now() + interval '1 day' END
FROM (SELECT gen_random_uuid() AS id) AS new
"""

_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


async def _add_jobs(
    database: Database, count: int, *, created: timedelta, ended: timedelta, type_: str = "a"
) -> list[UUID]:
    rows = await fetch(database, _ADD_JOBS, count, type_, created, ended)
    return [row["job_id"] for row in rows]


async def _maintained(database: Database, **options: Any) -> Mapping[str, Mapping[str, int]]:
    report = await maintain(database, _MONTH, **options)
    assert report.failure() is None
    return report.counts


async def _count(database: Database, table: str) -> int:
    (row,) = await fetch(database, f"SELECT count(*) FROM {table}")  # noqa: S608 - a table of the test
    return int(row[0])


async def test_jobs_that_all_sweeps_passed_by_are_removed(database: Database) -> None:
    # It took longer than any sweep waits for, and the sweeps are far behind it.
    old = await _add_jobs(database, 1_200, created=timedelta(days=90), ended=timedelta(days=31))
    await fetch(
        database,
        "INSERT INTO retention_sweeps (age, position) SELECT interval '30 days 10 minutes', $1",
        old[-1],
    )
    kept = await _add_jobs(database, 3, created=timedelta(days=60), ended=timedelta(days=29))
    kept += await created_jobs(database, sample_job())

    counts = await _maintained(database)

    assert counts["jobs"] == {"visited": 1_203, "removed": 1_200}
    assert {row["job_id"] for row in await fetch(database, "SELECT job_id FROM jobs")} == set(kept)


async def test_jobs_of_a_type_whose_time_became_shorter_are_removed(database: Database) -> None:
    await _add_jobs(database, 5, created=timedelta(days=9), ended=timedelta(days=9), type_="short")
    await _add_jobs(database, 5, created=timedelta(days=9), ended=timedelta(days=9))
    await fetch(
        database,
        "INSERT INTO job_types (type, label, description, input_schema, max_attempts, timeout, concurrency, options)"
        " VALUES ('short', '', '', '{}', 1, '1 h', 1, $1)",
        TypeOptions(retention=RetentionRule(completed=timedelta(days=7))).to_json(),
    )

    assert (await _maintained(database))["jobs"] == {"visited": 10, "removed": 5}


async def test_jobs_younger_than_anything_is_kept_are_not_looked_at(database: Database) -> None:
    await _add_jobs(database, 100, created=timedelta(days=29), ended=timedelta(days=29))
    assert (await _maintained(database))["jobs"] == {"visited": 0, "removed": 0}


async def test_attempts_of_jobs_that_are_gone_are_removed_and_no_others(database: Database) -> None:
    running = (await running_job(database)).claim.id
    (waiting,) = await created_jobs(database, sample_job())
    (finished,) = await _add_jobs(database, 1, created=timedelta(days=2), ended=timedelta(days=2))
    entry = new_id()
    async with database.transaction() as conn:
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts) VALUES ($1, 's', 'none', 1)", entry
        )
        kept = {waiting, running, finished, entry}
        await conn.executemany(_ADD_ATTEMPT, [(id_, n) for n, id_ in enumerate(kept, 1)])
        await conn.execute(
            "INSERT INTO job_attempts (job_id, fence, attempt, outcome)"
            " SELECT gen_random_uuid(), n, 1, 'failed' FROM generate_series(1, 1500) AS n"
        )

    counts = await _maintained(database)

    assert counts["job_attempts"] == {"visited": 1_504, "removed": 1_500}
    assert {row["job_id"] for row in await fetch(database, "SELECT job_id FROM job_attempts")} == kept


async def _add_schedules(conn: asyncpg.Connection) -> None:
    await conn.execute(
        "INSERT INTO scheduled_jobs (schedule_id, org_id, name, type, recurrence, time_zone, deleted_at, paused)"
        " SELECT gen_random_uuid(), 'acme', name, 'a', '{}', 'UTC', now() - ago::interval, ago IS NOT NULL"
        " FROM unnest(ARRAY['kept', 'deleted', 'just deleted'], ARRAY[NULL, '91 days', '89 days'])"
        " AS schedule (name, ago)"
    )
    await conn.execute(
        "INSERT INTO schedule_runs (schedule_id, scheduled_time, cause, outcome, recorded_at)"
        " SELECT schedule_id, now() + n * interval '1 s', 'schedule', 'missed', now() - n * interval '1 day'"
        " FROM scheduled_jobs, generate_series(85, 1500) AS n WHERE name = 'kept' OR n > 91 AND n < 100"
    )


async def test_old_runs_of_schedules_are_removed_and_deleted_schedules_after_them(database: Database) -> None:
    async with database.transaction() as conn:
        await _add_schedules(conn)
    said = await _maintained(database, dry_run=True)

    counts = await _maintained(database)

    assert said["schedule_runs"] == counts["schedule_runs"] == {"removed": 1_411 + 16}
    assert said["deleted_schedules"] == counts["deleted_schedules"] == {"removed": 1}
    names = await fetch(database, "SELECT name FROM scheduled_jobs ORDER BY name")
    assert [row[0] for row in names] == ["just deleted", "kept"]
    left = await fetch(
        database, "SELECT count(*), min(recorded_at) > now() - interval '90 days' FROM schedule_runs"
    )
    # Of 85 to 89 days ago.
    assert tuple(left[0]) == (5, True)


async def _add_import(conn: asyncpg.Connection, job_id: UUID, rows: int) -> None:
    dataset_id = new_id()
    await conn.execute(
        "INSERT INTO datasets (dataset_id, org_id, name) VALUES ($1, 'acme', $2)", dataset_id, str(dataset_id)
    )
    await conn.execute("INSERT INTO dataset_imports (job_id, dataset_id) VALUES ($1, $2)", job_id, dataset_id)
    await conn.execute(
        "INSERT INTO dataset_rows SELECT $1, $2, n, '{}' FROM generate_series(1, $3::integer) AS n",
        dataset_id,
        job_id,
        rows,
    )


async def test_imports_that_nobody_can_finish_are_removed(database: Database) -> None:
    running = (await running_job(database)).claim.id
    async with database.transaction() as conn:
        await _add_import(conn, new_id(), 2_500)
        await _add_import(conn, new_id(), 0)
        await _add_import(conn, running, 10)

    counts = await _maintained(database)

    assert counts["imports"] == {"removed": 2, "rows": 2_500}
    assert [row[0] for row in await fetch(database, "SELECT job_id FROM dataset_imports")] == [running]
    assert await _count(database, "dataset_rows") == 10


async def test_workers_that_were_lost_long_ago_are_forgotten(database: Database) -> None:
    async with database.transaction() as conn:
        living = await new_worker(conn)
        long_ago, just_now = new_id(), new_id()
        await conn.execute(
            "INSERT INTO queue_lost_workers (worker_id, details, removed_at)"
            " VALUES ($1, '{}', now() - interval '2 hours'), ($2, '{}', now())",
            long_ago,
            just_now,
        )

    assert (await _maintained(database))["lost_workers"] == {"removed": 1}

    assert [row[0] for row in await fetch(database, "SELECT worker_id FROM queue_lost_workers")] == [just_now]
    assert [row[0] for row in await fetch(database, "SELECT worker_id FROM queue_workers")] == [living]


async def test_runs_of_system_schedules_that_nobody_knows_are_removed(database: Database) -> None:
    await fetch(database, "INSERT INTO system_schedules (type, cron) VALUES ('test:known', '@daily')")
    await fetch(
        database,
        "INSERT INTO queue (id, type, tenant, max_attempts, state, enqueued_at)"
        " SELECT gen_random_uuid(), type, tenant, 3, state, now() - ago::interval"
        " FROM (VALUES ('system/test:gone', ':system', 'ready', '25 hours'),"
        " ('system/test:gone', ':system', 'scheduled', '25 hours'),"
        " ('system/test:young', ':system', 'ready', '23 hours'),"
        " ('system/test:known', ':system', 'ready', '25 hours'), ('test:gone', 'acme', 'ready', '25 hours'))"
        " AS entry (type, tenant, state, ago)",
    )

    assert (await _maintained(database))["system_runs"] == {"removed": 2}

    left = await fetch(database, "SELECT type FROM queue ORDER BY type")
    assert [row[0] for row in left] == ["system/test:known", "system/test:young", "test:gone"]


async def test_a_running_run_of_a_system_schedule_is_left_alone(database: Database) -> None:
    async with database.transaction() as conn:
        worker_id = await new_worker(conn)
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts, state, enqueued_at, attempt, fence, worker_id)"
            " VALUES ($1, 'system/test:gone', ':system', 3, 'running', now() - interval '2 days', 1, 1, $2)",
            new_id(),
            worker_id,
        )
    assert (await _maintained(database))["system_runs"] == {"removed": 0}
    assert await _count(database, "queue") == 1


async def test_secrets_that_are_good_for_nothing_are_forgotten(database: Database) -> None:
    await fetch(
        database,
        "INSERT INTO job_subscriptions"
        " (subscription_id, org_id, url, secret, previous_secret, previous_secret_until, event_types)"
        " SELECT gen_random_uuid(), 'acme', name, 'new', 'old', now() + ago::interval, '{job.completed}'"
        " FROM unnest(ARRAY['over', 'not yet'], ARRAY['-1 second', '1 hour']) AS subscription (name, ago)",
    )

    assert (await _maintained(database))["subscription_secrets"] == {"removed": 1}

    rows = await fetch(database, "SELECT url, secret, previous_secret FROM job_subscriptions ORDER BY url")
    assert [tuple(row) for row in rows] == [("not yet", "new", "old"), ("over", "new", None)]


async def _add_files(conn: asyncpg.Connection) -> None:
    for org_id, size, deleted in (
        ("right", 10, False),
        ("wrong", 20, False),
        ("wrong", 5, False),
        ("wrong", 100, True),
        ("unknown", 7, False),
    ):
        await conn.execute(_ADD_FILE, org_id, size, deleted)
    await conn.execute("DELETE FROM file_usage")
    await conn.execute(
        "INSERT INTO file_usage (org_id, files, total_bytes, max_files)"
        " VALUES ('right', 1, 10, 5), ('wrong', 3, 125, 7), ('emptied', 2, 8, NULL)"
    )


async def _usage(database: Database) -> dict[str, tuple[int, int, int | None]]:
    rows = await fetch(database, "SELECT org_id, files, total_bytes, max_files FROM file_usage")
    return {row[0]: tuple(row)[1:] for row in rows}


async def test_what_files_take_up_is_counted_anew(database: Database) -> None:
    async with database.transaction() as conn:
        await _add_files(conn)

    assert (await _maintained(database))["file_usage"] == {"organisations": 4, "differed": 3}

    assert await _usage(database) == {
        "right": (1, 10, 5),
        "wrong": (2, 25, 7),
        "emptied": (0, 0, None),
        "unknown": (1, 7, None),
    }
    assert (await _maintained(database))["file_usage"] == {"organisations": 4, "differed": 0}


async def test_an_upload_that_ends_while_files_are_counted_is_counted_once(database: Database) -> None:
    async with database.transaction() as conn:
        await _add_files(conn)
    async with database.transaction() as uploading:
        await uploading.execute(
            "UPDATE file_usage SET files = files + 1, total_bytes = total_bytes + 1 WHERE org_id = 'wrong'"
        )
        await uploading.execute(_ADD_FILE, "wrong", 1, False)
        counting = asyncio.create_task(maintain(database, _MONTH))
        await fetched(database, _WAITING, lambda rows: rows[0][0], within=30)
    await counting
    assert (await _usage(database))["wrong"] == (3, 26, 7)


async def _add_everything(database: Database) -> None:
    await _add_jobs(database, 1_500, created=timedelta(days=90), ended=timedelta(days=31))
    async with database.transaction() as conn:
        await conn.execute(
            "INSERT INTO job_attempts (job_id, fence, attempt, outcome)"
            " SELECT gen_random_uuid(), n, 1, 'failed' FROM generate_series(1, 1500) AS n"
        )
        await _add_schedules(conn)
        await _add_import(conn, new_id(), 1_500)
        await _add_files(conn)
        await conn.execute(
            "INSERT INTO queue_lost_workers (worker_id, details, removed_at)"
            " VALUES ($1, '{}', now() - interval '2 hours')",
            new_id(),
        )
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts, enqueued_at)"
            " VALUES ($1, 'system/test:gone', ':system', 3, now() - interval '2 days')",
            new_id(),
        )
        await conn.execute(
            "INSERT INTO job_subscriptions"
            " (subscription_id, org_id, url, secret, previous_secret, previous_secret_until, event_types)"
            " VALUES ($1, 'acme', 'u', 'new', 'old', now() - interval '1 s', '{job.completed}')",
            new_id(),
        )


async def _snapshot(database: Database) -> dict[str, list[Any]]:
    return {
        table: await fetch(database, f"SELECT * FROM {table} AS row ORDER BY row::text")  # noqa: S608 - our tables
        for table in MAINTAINED_TABLES
    }


async def test_a_dry_run_counts_the_same_and_changes_nothing(database: Database) -> None:
    await _add_everything(database)
    before = await _snapshot(database)

    said = await _maintained(database, dry_run=True)

    assert await _snapshot(database) == before
    done = await _maintained(database)
    wanted = {name: counts.get("removed", counts.get("differed")) for name, counts in done.items()}
    assert {name: counts.get("removed", counts.get("differed")) for name, counts in said.items()} == wanted
    assert all(count for name, count in wanted.items() if name != "sizes"), wanted


async def test_two_at_once_do_no_harm(database: Database) -> None:
    await _add_everything(database)

    reports = await asyncio.gather(*(maintain(database, _MONTH) for _ in range(2)))

    assert [report.failure() for report in reports] == [None, None]
    removed = sum(report.counts["jobs"]["removed"] for report in reports)
    assert removed == 1_500
    counts = await _maintained(database)
    assert {name: found.get("removed", 0) for name, found in counts.items()} == dict.fromkeys(counts, 0)
    assert counts["file_usage"]["differed"] == 0


async def test_it_stops_between_batches_when_it_is_cancelled_and_goes_on_another_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _add_everything(database)
    walked = asyncio.Event()
    walk = leftovers.walk_attempts

    async def walk_and_tell(*arguments: Any, **options: Any) -> leftovers.AttemptsWalk:
        result = await walk(*arguments, **options)
        walked.set()
        return result

    monkeypatch.setattr(leftovers, "walk_attempts", walk_and_tell)
    maintaining = asyncio.create_task(maintain(database, _MONTH))
    await asyncio.wait_for(walked.wait(), 30)
    # It pauses after the first batch.
    maintaining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await maintaining

    assert await _count(database, "job_attempts") == 500
    assert await _count(database, "dataset_imports") == 1
    monkeypatch.undo()
    counts = await _maintained(database)
    assert (counts["job_attempts"]["removed"], counts["imports"]["removed"]) == (500, 1)


async def test_a_step_that_fails_does_not_stop_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _add_everything(database)
    await fetch(database, "ALTER TABLE job_attempts RENAME TO hidden")

    report = await maintain(database, _MONTH)

    assert [step.name for step in report.failed] == ["jobs", "job_attempts"]
    failure = report.failure()
    assert failure is not None
    assert failure.startswith("2 of 10 steps failed (jobs, job_attempts); the first: ")
    assert "\n" not in failure
    assert report.counts["imports"] == {"removed": 1, "rows": 1_500}
    assert report.counts["file_usage"]["differed"] == 3
