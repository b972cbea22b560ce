import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from millrace_database.ids import new_id, parse_id
from millrace_storage import FileFilters, LeaseLost
from millrace_worker import JobError
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files, own_limits


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> HandlerRuns:
    return HandlerRuns(database, local_files(database, tmp_path))


async def archive(runs: HandlerRuns, *file_ids: str, **options: Any) -> Any:
    return await runs.run("files:archive", {"file_ids": list(file_ids), **options})


async def opened(runs: HandlerRuns, output: Any) -> zipfile.ZipFile:
    content = await runs.content(output.file_id)
    assert len(content) == output.bytes
    return zipfile.ZipFile(io.BytesIO(content))


async def test_puts_files_together_with_their_names_and_times(runs: HandlerRuns) -> None:
    contents = [b"a,b\n1,2\n" * 50_000, b"", "größer".encode()]
    names = ["rows.csv", "empty.txt", "größe.txt"]
    file_ids = [await runs.upload(content, name) for content, name in zip(contents, names, strict=True)]
    output = await archive(runs, *file_ids)
    assert (output.name, output.files) == ("archive.zip", 3)
    with await opened(runs, output) as made:
        assert made.testzip() is None
        assert made.namelist() == names
        assert [made.read(name) for name in names] == contents
        created = [(await runs.record(file_id)).created_at.timetuple()[:5] for file_id in file_ids]
        assert [info.date_time[:5] for info in made.infolist()] == created
    assert output.bytes < 10_000


async def test_the_archive_is_a_file_of_the_job(runs: HandlerRuns) -> None:
    context = await runs.context(
        "files:archive", {"file_ids": [await runs.upload(b"x", "x.txt")], "file_name": "june"}
    )
    output = await call(context)
    record = await runs.record(output.file_id)
    assert record.name == "june.zip"
    assert record.content_type == "application/zip"
    assert record.created_by == "ann"
    assert record.job_id == parse_id("job", context.job_id)
    assert (record.state, record.expires_at) == ("with_job", None)


async def test_a_worker_that_lost_the_job_makes_no_file(runs: HandlerRuns, tmp_path: Path) -> None:
    file_id = await runs.upload(b"x", "x.txt")
    stale = await runs.context("files:archive", {"file_ids": [file_id]})
    again = await runs.claimed_again(stale)

    with pytest.raises(LeaseLost):
        await call(stale)

    assert len(await runs.files.list("acme", FileFilters(), None, 10)) == 1
    assert len([path for path in (tmp_path / "files").rglob("*") if path.is_file()]) == 1
    assert await call(again)


async def test_an_archive_that_there_is_no_room_for(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"x", "x.txt")
    await runs.files.set_limits("acme", own_limits(None, 1, None))

    with pytest.raises(JobError) as caught:
        await archive(runs, file_id)

    assert (caught.value.code, caught.value.retryable) == ("FILE_LIMIT_EXCEEDED", False)


async def test_a_deleted_file_is_said_to_be_deleted(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"x", "x.txt")
    await runs.files.delete("acme", parse_id("file", file_id))

    with pytest.raises(JobError, match=f"FILE_DELETED: {file_id} is deleted"):
        await archive(runs, file_id)


async def test_files_of_one_name_get_numbers(runs: HandlerRuns) -> None:
    names = ["a.csv", "A.csv", "a (2).csv", "a.csv", "notes"]
    file_ids = [await runs.upload(name.encode(), name) for name in names]
    with await opened(runs, await archive(runs, *file_ids)) as made:
        assert made.namelist() == ["a.csv", "A (2).csv", "a (2) (2).csv", "a (3).csv", "notes"]
        assert [made.read(name) for name in made.namelist()] == [name.encode() for name in names]


async def test_progress_counts_bytes(runs: HandlerRuns) -> None:
    sizes = [300_000, 0, 700_000]
    await archive(runs, *[await runs.upload(os.urandom(size), f"{size}.bin") for size in sizes])
    done = [update.processed_items for update in runs.progress if update.processed_items is not None]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == sum(sizes)
    assert len(set(done)) > 3
    assert {update.total_items for update in runs.progress if update.processed_items is not None} == {
        1_000_000
    }
    percents = [update.percent for update in runs.progress if update.percent is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100


async def test_large_files_are_never_in_memory(runs: HandlerRuns) -> None:
    file_ids = [await runs.upload(os.urandom(6_000_000), f"{number}.bin") for number in range(3)]
    context = await runs.context("files:archive", {"file_ids": file_ids})
    tracemalloc.start()
    try:
        output = await call(context)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert output.bytes > 18_000_000
    assert peak < 4_000_000


@pytest.mark.parametrize("org_id", ["other", None])
async def test_a_file_that_is_not_there_is_named_and_nothing_is_made(
    runs: HandlerRuns, org_id: str | None
) -> None:
    there = await runs.upload(b"x", "x.txt")
    missing = f"file_{new_id().hex}" if org_id is None else await runs.upload(b"y", "y.txt", org_id=org_id)
    with pytest.raises(JobError) as caught:
        await archive(runs, there, missing)
    assert (caught.value.code, caught.value.retryable) == ("FILE_NOT_FOUND", False)
    assert missing in caught.value.message
    assert [record.name for record in await runs.files.list("acme", FileFilters(), None, 10)] == ["x.txt"]


async def test_content_that_is_gone_is_named_and_nothing_is_made(runs: HandlerRuns, tmp_path: Path) -> None:
    there = await runs.upload(b"x" * 200_000, "x.txt")
    objects = {path for path in (tmp_path / "files").rglob("*") if path.is_file()}
    gone = await runs.upload(b"y", "y.txt")
    for path in {path for path in (tmp_path / "files").rglob("*") if path.is_file()} - objects:
        path.unlink()
    with pytest.raises(JobError, match=f"CONTENT_MISSING: the content of {gone}"):
        await archive(runs, there, gone)
    assert len(await runs.files.list("acme", FileFilters(), None, 10)) == 2
