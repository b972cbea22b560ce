"""What a clean-up removes, and what it leaves, in every kind of store."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_storage.cleanup_report import NOTHING, Amount
from millrace_storage.storage_cleanup import CleanupTimes, clean_up_storage
from support.object_stores import KINDS
from support.s3_server import S3Server, running_s3_server
from support.stored_files import AGO, AT_ONCE, OWNER_KEY, StoredFiles, stored_files
from support.worker_runs import fetch

_LATER = timedelta(hours=2)
_MINUTES_AGO = timedelta(minutes=-30)
_HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3_server() as server:
        yield server


@pytest.fixture(params=KINDS)
async def files(
    request: pytest.FixtureRequest,
    database: Database,
    tmp_path: Path,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[StoredFiles]:
    async with stored_files(request.param, database, tmp_path, server, monkeypatch) as files:
        yield files


async def test_expired_files_go_with_their_objects_and_others_stay(files: StoredFiles) -> None:
    kept = {
        (await files.file())[1],
        (await files.file("temporary", _LATER))[1],
        (await files.file("persistent", _LATER, deleted=True))[1],
        (await files.file("with_job", job_id=await files.job()))[1],
        (await files.file("persistent", job_id=new_id()))[1],
    }
    await files.file("temporary", AGO, content=b"1")
    await files.file("temporary", AGO, org="other", content=b"22")
    await files.file("persistent", AGO, deleted=True, content=b"333")

    report = await clean_up_storage(files.database, files.stores)

    assert report.files == report.removals == Amount(3, 6)
    assert await files.keys() == await files.rows("files") == kept
    assert await files.rows("file_removals") == set()
    await files.assert_consistent()


async def test_files_of_a_job_go_when_its_record_is_gone(files: StoredFiles) -> None:
    running = new_id()
    async with files.database.connection() as conn:
        await conn.execute(
            "INSERT INTO queue (id, type, tenant, max_attempts) VALUES ($1, 'a', 'acme', 1)", running
        )
    kept = {
        (await files.file("with_job", job_id=await files.job()))[1],
        (await files.file("with_job", job_id=running))[1],
        (await files.file("with_job", _LATER, job_id=new_id(), deleted=True))[1],
    }
    gone = new_id()
    for _ in range(3):
        await files.file("with_job", job_id=gone)

    report = await clean_up_storage(files.database, files.stores)

    assert report.files_of_gone_jobs == report.files == Amount(3, 21)
    assert await files.keys() == await files.rows("files") == kept
    await files.assert_consistent()


async def test_uploads_that_nobody_goes_on_with_are_given_up(files: StoredFiles) -> None:
    kept = {
        await files.object(await files.upload("stream", _LATER)),
        await files.object(await files.upload("presigned", _LATER)),
        # Whoever began to send before the end may go on for a while.
        await files.object(await files.upload("presigned", _MINUTES_AGO)),
    }
    going_on = await files.unfinished_write(await files.upload("stream", _LATER))
    await files.object(await files.upload("stream", _MINUTES_AGO))
    await files.object(await files.upload("presigned", AGO))
    for kind in ("stream", "presigned"):
        await files.unfinished_write(await files.upload(kind, AGO))
    await files.upload("stream", AGO)

    report = await clean_up_storage(files.database, files.stores)

    assert report.uploads == Amount(5)
    assert await files.keys() == kept
    assert await files.unfinished() == {going_on}
    assert await files.rows("file_uploads") == kept | {going_on}
    assert await files.rows("file_removals") == set()


async def test_what_no_row_knows_goes_when_it_is_old_enough(files: StoredFiles) -> None:
    known = {
        (await files.file())[1],
        await files.object(await files.upload("stream", _LATER)),
        await files.object(await files.upload("presigned", _LATER)),
        await files.object(await files.removal(due_in=_LATER)),
    }
    others = {
        await files.object(f"{files.prefix}notes/readme.txt"),
        await files.object(f"{files.prefix}org-acme/readme.txt"),
        await files.object("elsewhere/org-acme/00/" + "0" * 32),
    }
    going_on = await files.unfinished_write(await files.upload("stream", _LATER))
    lost = await files.object(content=b"12345"), await files.object(files.staging_key())
    await files.unfinished_write()

    young = await clean_up_storage(files.database, files.stores, times=CleanupTimes(unknown=_HOUR))
    assert young.objects == NOTHING
    assert set(lost) <= await files.keys()

    report = await clean_up_storage(files.database, files.stores, times=AT_ONCE)
    assert report.objects == Amount(2, 6)
    assert await files.keys() == known | others
    assert await files.unfinished() == {going_on}
    assert (report.problems, report.left_alone, report.failed) == ([], [], NOTHING)


async def test_an_object_is_removed_when_its_removal_is_due(files: StoredFiles) -> None:
    waiting = await files.object(await files.removal(due_in=_LATER))
    await files.object(await files.removal(size=5))
    await files.removal(size=7)

    report = await clean_up_storage(files.database, files.stores)

    # One was gone already.
    assert report.removals == Amount(2, 12)
    assert await files.keys() == await files.rows("file_removals") == {waiting}


async def test_a_dry_run_counts_what_a_run_does_and_changes_nothing(files: StoredFiles) -> None:
    await files.file()
    await files.file("temporary", AGO, content=b"22")
    await files.file("with_job", job_id=new_id(), content=b"333")
    await files.unfinished_write(await files.upload("stream", AGO))
    await files.object(await files.removal(size=5))
    # Of uploads that were cancelled or refused.
    for _ in range(3):
        await files.unfinished_write(await files.removal(size=0))
    await files.removal(due_in=_LATER)
    await files.object(content=b"7777777")
    await files.unfinished_write()
    before = await _everything(files)

    dry = await clean_up_storage(files.database, files.stores, dry_run=True, times=AT_ONCE)

    assert await _everything(files) == before
    assert dry.dry_run
    assert (dry.uploads, dry.files_of_gone_jobs, dry.files) == (Amount(1), Amount(1, 3), Amount(2, 5))
    assert (dry.removals, dry.writes, dry.objects) == (Amount(7, 10), Amount(1), Amount(1, 7))
    assert dry.waiting == Amount(1, 1)

    wet = await clean_up_storage(files.database, files.stores, times=AT_ONCE)
    assert replace(wet, dry_run=True, seconds=dry.seconds) == dry


async def test_a_dry_run_counts_what_a_run_leaves_alone(files: StoredFiles) -> None:
    await files.object(files.prefix + OWNER_KEY, b"another database")
    await files.file("temporary", AGO)
    await files.upload("stream", AGO)
    await files.removal(size=5)
    await files.removal(provider="s3" if files.store.provider == "local" else "local")

    dry = await clean_up_storage(files.database, files.stores, dry_run=True)

    assert (dry.removals, dry.waiting) == (NOTHING, Amount(4, 13))
    wet = await clean_up_storage(files.database, files.stores)
    assert replace(wet, dry_run=True, seconds=dry.seconds) == dry
    assert len(wet.left_alone) == len(wet.problems) == 1


async def _everything(files: StoredFiles) -> list[object]:
    tables = ("files", "file_uploads", "file_removals", "file_usage", "jobs")
    rows = [await fetch(files.database, f"SELECT *, xmin FROM {table} ORDER BY 1") for table in tables]  # noqa: S608
    return [*rows, [stored async for stored in files.store.list()], await files.unfinished()]


async def test_many_files_go_in_batches(files: StoredFiles) -> None:
    kept = (await files.file())[1]
    async with files.database.connection() as conn:
        await conn.execute(
            "INSERT INTO files (file_id, org_id, name, content_type, size_bytes, sha256, provider, bucket, object_key, "
            "state, expires_at) SELECT gen_random_uuid(), 'org-' || n % 3, 'a', 'a/b', 1, '', $1, $2, "
            "$3 || 'org-' || n % 3 || '/00/' || lpad(to_hex(n), 32, '0'), 'temporary', now() FROM generate_series(1, 5000) AS n",
            files.store.provider,
            files.store.bucket,
            files.prefix,
        )
        await conn.execute(
            "INSERT INTO file_usage (org_id, total_bytes, files) "
            "SELECT org_id, sum(size_bytes), count(*) FROM files WHERE org_id <> 'acme' GROUP BY 1"
        )
    for key in list(await files.rows("files") - {kept})[:50]:
        await files.object(key)

    report = await clean_up_storage(files.database, files.stores)

    assert report.files == report.removals == Amount(5000, 5000)
    assert await files.keys() == {kept}
    assert await files.rows("file_removals") == set()
    await files.assert_consistent()
