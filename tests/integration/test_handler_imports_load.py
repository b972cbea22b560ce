import asyncio
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from millrace_database.database import Database
from millrace_database.datasets_repository import LeaseLostError
from millrace_database.ids import parse_id
from millrace_storage import FileRecord, FileStore
from millrace_worker import JobContext, JobError
from millrace_worker.context import ProgressUpdate
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files

AIRPORTS = Path(__file__).parents[2] / "examples" / "data" / "airports.csv"

MANY_ROWS = 45_000


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> HandlerRuns:
    return HandlerRuns(database, local_files(database, tmp_path))


def many_rows() -> bytes:
    """More than three blocks of CSV in which each thousandth row is wrong."""
    rows = [
        "wrong" if number % 1_000 == 0 else f'{number},"{"x" * 70}"' for number in range(1, MANY_ROWS + 1)
    ]
    return "\n".join(["number,text", *rows]).encode()


async def rows_of(database: Database, dataset: str = "data", org_id: str = "acme") -> list[dict[str, Any]]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT data FROM dataset_rows JOIN datasets USING (dataset_id) WHERE name = $1 AND org_id = $2"
            " ORDER BY job_id, row_number",
            dataset,
            org_id,
        )
    return [json.loads(row["data"]) for row in rows]


async def import_file(runs: HandlerRuns, content: bytes, name: str = "data.csv", **options: Any) -> Any:
    file_id = await runs.upload(content, name)
    return await runs.run("imports:load", {"file_id": file_id, "dataset": "data", **options})


async def test_loads_every_airport(runs: HandlerRuns) -> None:
    output = await import_file(runs, AIRPORTS.read_bytes())
    columns = ["iata", "name", "city", "state", "country", "latitude", "longitude"]
    assert output.model_dump() == {
        "dataset": "data",
        "rows_read": 3_376,
        "rows_loaded": 3_376,
        "rows_failed": 0,
        "errors": [],
        "columns": columns,
    }
    rows = await rows_of(runs.database)
    assert len(rows) == 3_376
    assert rows[0] == dict(
        zip(
            columns,
            ["00M", "Thigpen", "Bay Springs", "MS", "USA", "31.95376472", "-89.23450472"],
            strict=True,
        )
    )
    assert {"35A", "BTR"} <= {row["iata"] for row in rows if "," in row["name"]}


async def test_loads_json_lines_as_they_are(runs: HandlerRuns) -> None:
    output = await import_file(
        runs, b'{"a": 12345678901234567890, "b": [1, null]}\n\n[1]\n{"c": "x"}\n', "data.jsonl"
    )
    assert (output.rows_read, output.rows_loaded, output.rows_failed) == (3, 2, 1)
    assert output.columns == ["a", "b", "c"]
    assert [error.model_dump() for error in output.errors] == [
        {"row": 2, "line": 3, "reason": "not a JSON object"}
    ]
    assert await rows_of(runs.database) == [{"a": 12345678901234567890, "b": [1, None]}, {"c": "x"}]


async def test_two_imports_into_one_dataset_append(runs: HandlerRuns) -> None:
    await import_file(runs, b"a\n1\n2\n")
    await import_file(runs, b"a,b\n3,x\n")
    assert await rows_of(runs.database) == [{"a": "1"}, {"a": "2"}, {"a": "3", "b": "x"}]


async def test_a_given_format_and_delimiter_win_over_the_name(runs: HandlerRuns) -> None:
    await import_file(runs, b"a;b\n1,5;2\n", "data.jsonl", format="csv", delimiter=";")
    assert await rows_of(runs.database) == [{"a": "1,5", "b": "2"}]


async def test_the_content_type_tells_the_format_when_the_name_does_not(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b'{"a": 1}', "data", content_type="application/x-ndjson; charset=utf-8")
    output = await runs.run("imports:load", {"file_id": file_id, "dataset": "data"})
    assert output.rows_loaded == 1


async def test_lists_the_first_hundred_errors_and_counts_all(runs: HandlerRuns) -> None:
    output = await import_file(runs, b"a,b\n" + b"wrong\n" * 250 + b"1,2\n")
    assert (output.rows_read, output.rows_loaded, output.rows_failed) == (251, 1, 250)
    assert [error.row for error in output.errors] == list(range(1, 101))
    assert output.errors[0].model_dump() == {
        "row": 1,
        "line": 2,
        "reason": "number of fields: 1 instead of 2",
    }


async def test_progress_follows_the_bytes_and_the_rows(runs: HandlerRuns) -> None:
    await import_file(runs, many_rows())
    percents = [update.percent for update in runs.progress if update.percent is not None]
    rows = [update.processed_items for update in runs.progress if update.processed_items is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert any(20 < percent < 80 for percent in percents)
    assert rows == sorted(rows)
    assert any(0 < count < MANY_ROWS for count in rows)
    assert rows[-1] == MANY_ROWS


class DiedError(Exception):
    pass


def die_at(percent: int) -> Callable[[ProgressUpdate], None]:
    def report(update: ProgressUpdate) -> None:
        if (update.percent or 0) >= percent:
            raise DiedError

    return report


async def assert_each_row_once(database: Database) -> None:
    async with database.connection() as connection:
        numbers = [row[0] for row in await connection.fetch("SELECT row_number FROM dataset_rows ORDER BY 1")]
        texts = [
            row[0]
            for row in await connection.fetch("SELECT (data->>'number')::int FROM dataset_rows ORDER BY 1")
        ]
    expected = [number for number in range(1, MANY_ROWS + 1) if number % 1_000]
    assert numbers == expected
    assert texts == expected


async def test_an_import_that_died_goes_on_without_losing_or_doubling_a_row(runs: HandlerRuns) -> None:
    file_id = await runs.upload(many_rows(), "data.csv")
    input_ = {"file_id": file_id, "dataset": "data"}
    first = await runs.context("imports:load", input_, on_progress=die_at(25))
    with pytest.raises(DiedError):
        await call(first)
    loaded_first = len(await rows_of(runs.database))
    assert 0 < loaded_first < MANY_ROWS

    second = await runs.claimed_again(first, on_progress=die_at(60))
    with pytest.raises(DiedError):
        await call(second)
    assert loaded_first < len(await rows_of(runs.database)) < MANY_ROWS

    output = await call(await runs.claimed_again(second))
    assert (output.rows_read, output.rows_loaded, output.rows_failed) == (MANY_ROWS, MANY_ROWS - 45, 45)
    assert [error.row for error in output.errors] == list(range(1_000, MANY_ROWS + 1, 1_000))
    assert output.columns == ["number", "text"]
    await assert_each_row_once(runs.database)


async def test_an_import_that_was_finished_says_the_same_when_it_runs_again(runs: HandlerRuns) -> None:
    context = await runs.context(
        "imports:load", {"file_id": await runs.upload(many_rows(), "data.csv"), "dataset": "data"}
    )
    output = await call(context)
    assert await call(await runs.claimed_again(context)) == output
    await assert_each_row_once(runs.database)


async def test_a_finished_import_needs_its_file_no_more(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"a\n1\n", "data.csv")
    context = await runs.context("imports:load", {"file_id": file_id, "dataset": "data"})
    output = await call(context)

    await runs.files.delete("acme", parse_id("file", file_id), permanently=True)

    assert await call(await runs.claimed_again(context)) == output
    assert await rows_of(runs.database) == [{"a": "1"}]


class PausingFiles(FileStore):
    """Content pauses in its middle until it may go on."""

    def __init__(self, database: Database, files: FileStore) -> None:
        super().__init__(database, files.stores)
        self.is_half_read = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def open(
        self, org_id: str, file_id: UUID, *, start: int = 0, end: int | None = None
    ) -> tuple[FileRecord, AsyncIterator[bytes]]:
        record, chunks = await super().open(org_id, file_id, start=start, end=end)
        return record, self._pausing(chunks, record.size_bytes)

    async def _pausing(self, chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
        done = 0
        async for chunk in chunks:
            yield chunk
            done += len(chunk)
            if done > size / 2:
                self.is_half_read.set()
                await self.may_go_on.wait()


async def test_a_worker_that_lost_the_job_writes_nothing_more(runs: HandlerRuns) -> None:
    pausing = PausingFiles(runs.database, runs.files)
    file_id = await runs.upload(many_rows(), "data.csv")
    stale = await HandlerRuns(runs.database, pausing).context(
        "imports:load", {"file_id": file_id, "dataset": "data"}
    )
    async with asyncio.TaskGroup() as tasks:
        losing = tasks.create_task(_lost(stale))
        await pausing.is_half_read.wait()
        output = await call(await runs.claimed_again(stale))
        pausing.may_go_on.set()
    assert losing.result()
    assert output.rows_loaded == MANY_ROWS - 45
    await assert_each_row_once(runs.database)


async def _lost(context: JobContext[Any]) -> bool:
    try:
        await call(context)
    except LeaseLostError:
        return True
    return False


async def test_a_cancelled_import_stops_and_can_go_on(runs: HandlerRuns) -> None:
    pausing = PausingFiles(runs.database, runs.files)
    file_id = await runs.upload(many_rows(), "data.csv")
    context = await HandlerRuns(runs.database, pausing).context(
        "imports:load", {"file_id": file_id, "dataset": "data"}
    )
    async with asyncio.timeout(20):
        running = asyncio.ensure_future(call(context))
        await pausing.is_half_read.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert 0 < len(await rows_of(runs.database)) < MANY_ROWS - 45
    await call(await runs.claimed_again(context))
    await assert_each_row_once(runs.database)


async def test_rows_can_be_seen_only_when_all_are_there(runs: HandlerRuns) -> None:
    file_id = await runs.upload(many_rows(), "data.csv")
    dying = await runs.context(
        "imports:load", {"file_id": file_id, "dataset": "data"}, on_progress=die_at(60)
    )
    with pytest.raises(DiedError):
        await call(dying)
    assert len(await rows_of(runs.database)) > 0
    assert await visible_rows(runs) == 0
    await call(await runs.claimed_again(dying))
    assert await visible_rows(runs) == MANY_ROWS - 45


async def visible_rows(runs: HandlerRuns) -> int:
    output = await runs.run(
        "reports:generate", {"dataset": "data", "format": "json", "aggregates": [{"function": "count"}]}
    )
    ((count,),) = [row.values() for row in json.loads(await runs.content(output.file_id))]
    return int(count)


async def test_a_large_file_is_never_in_memory(runs: HandlerRuns) -> None:
    content = b"number,text\n" + (b"1," + b"x" * 1_000 + b"\n") * 20_000
    file_id = await runs.upload(content, "data.csv")
    context = await runs.context("imports:load", {"file_id": file_id, "dataset": "data"})
    size = len(content)
    del content
    tracemalloc.start()
    try:
        await call(context)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 20_000_000
    assert peak < 16_000_000


@pytest.mark.parametrize("end", [b"\n", b""])
async def test_a_small_file_has_all_its_rows_in_the_last_progress_before_its_end(
    runs: HandlerRuns, end: bytes
) -> None:
    await import_file(runs, AIRPORTS.read_bytes().rstrip() + end)

    told = [(update.percent, update.message) for update in runs.progress if update.message]
    assert told[-2:] == [(99, "3,376 rows read"), (100, "3,376 rows loaded, 0 failed")]
    assert not any(message.startswith("0 rows") for _, message in told)


async def test_a_deleted_file_is_said_to_be_deleted(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"a\n1\n", "data.csv")
    await runs.files.delete("acme", parse_id("file", file_id))

    with pytest.raises(JobError) as caught:
        await runs.run("imports:load", {"file_id": file_id, "dataset": "data"})

    assert (caught.value.code, caught.value.retryable) == ("FILE_DELETED", False)
    assert caught.value.message == f"{file_id} is deleted; millrace files undelete brings it back"


async def test_files_of_other_organisations_are_not_found(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"a\n1\n", "data.csv", org_id="other")
    with pytest.raises(JobError) as caught:
        await runs.run("imports:load", {"file_id": file_id, "dataset": "data"})
    assert (caught.value.code, caught.value.retryable) == ("FILE_NOT_FOUND", False)
    assert file_id in caught.value.message


async def test_datasets_of_one_name_are_apart_in_each_organisation(runs: HandlerRuns) -> None:
    for org_id, content in (("acme", b"a\n1\n"), ("other", b"a\n2\n")):
        file_id = await runs.upload(content, "data.csv", org_id=org_id)
        await runs.run("imports:load", {"file_id": file_id, "dataset": "data"}, org_id=org_id)
    assert await rows_of(runs.database) == [{"a": "1"}]
    assert await rows_of(runs.database, org_id="other") == [{"a": "2"}]


@pytest.mark.parametrize(
    ("lose", "state"),
    [(Path.unlink, "no longer in the object store"), (lambda path: os.truncate(path, 1), "damaged")],
)
async def test_a_file_whose_content_is_lost(
    runs: HandlerRuns, tmp_path: Path, lose: Callable[[Path], None], state: str
) -> None:
    file_id = await runs.upload(b"a\n1\n", "data.csv")
    for path in (tmp_path / "files").rglob("*"):
        if path.is_file():
            lose(path)
    with pytest.raises(JobError, match=f"CONTENT_MISSING: the content of {file_id} is {state}"):
        await runs.run("imports:load", {"file_id": file_id, "dataset": "data"})


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"a,a\n1,2\n", "twice.csv", 'twice.csv: two columns are named "a"'),
        (b"a,,c\n", "gap.csv", "gap.csv: column 2 has no name"),
        (b"", "empty.csv", "empty.csv: the file is empty"),
        (b"a\n1\n", "notes.txt", "give format"),
    ],
)
async def test_says_why_a_file_cannot_be_loaded(
    runs: HandlerRuns, content: bytes, name: str, reason: str
) -> None:
    file_id = await runs.upload(content, name, content_type="text/plain")
    with pytest.raises(JobError) as caught:
        await runs.run("imports:load", {"file_id": file_id, "dataset": "data"})
    assert (caught.value.code, caught.value.retryable) == ("INVALID_INPUT", False)
    assert reason in caught.value.message
