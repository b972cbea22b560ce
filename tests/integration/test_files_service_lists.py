from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.files.v1 import file_pb2, files_service_pb2
from millrace_database.database import Database
from millrace_database.ids import format_id, new_id
from millrace_runtime.settings import Settings
from millrace_storage import open_file_store
from support.files_api import delete, initiate, listed, upload
from support.jobs_api import JobsApi, refused_fields, serving


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _of_a_job(database: Database, folder: Path) -> tuple[str, str]:
    """The ids of a file that a job made, and of the job."""

    async def content() -> AsyncIterator[bytes]:
        yield b"made"

    job_id = new_id()
    async with open_file_store(database, Settings(data_dir=folder)) as store:
        file = await store.save(
            org_id="acme",
            name="made.txt",
            content_type="text/plain",
            created_by="cem",
            chunks=content(),
            job_id=job_id,
            state="with_job",
        )
    return format_id("file", file.file_id), format_id("job", job_id)


async def test_each_filter_narrows_the_list(api: JobsApi, database: Database, tmp_path: Path) -> None:
    plain = (await upload(api, name="a_1%.csv", created_by="ann")).file_id
    temporary = (await upload(api, name="ab.csv", temporary=True, created_by="ann")).file_id
    text = await upload(api, name="b\\c.txt", created_by="bob")
    made, job_id = await _of_a_job(database, tmp_path)
    gone = (await upload(api, name="a.csv", created_by="ann")).file_id
    await delete(api, gone)
    await upload(api, org_id="other")
    everything = [made, text.file_id, temporary, plain]

    async def found(**filters: Any) -> list[str]:
        return [file.file_id for file in await listed(api, page_size=2, **filters)]

    assert await found() == everything
    assert await found(states=[file_pb2.FILE_STATE_PERSISTENT]) == [text.file_id, plain]
    assert await found(states=[file_pb2.FILE_STATE_TEMPORARY]) == [temporary]
    assert await found(states=[file_pb2.FILE_STATE_WITH_JOB]) == [made]
    assert await found(states=[file_pb2.FILE_STATE_DELETED]) == [gone]
    assert await found(states=[1, 2, 3, 4]) == [gone, *everything]
    assert await found(name_prefix="a") == [temporary, plain]
    assert await found(name_prefix="a_") == [plain]
    assert await found(name_prefix="a_1%") == [plain]
    assert await found(name_prefix="%") == []
    assert await found(name_prefix="b\\") == [text.file_id]
    assert await found(created_by="ann") == [temporary, plain]
    assert await found(created_by="nobody") == []
    assert await found(job_id=job_id) == [made]
    assert await found(job_id="job_" + "0" * 32) == []
    assert await found(content_types=["text/csv"]) == [temporary, plain]
    assert await found(content_types=["text/csv", "text/plain", "a/b"]) == everything
    assert await found(created_after=text.created_at) == [made, text.file_id]
    assert await found(created_before=text.created_at) == [temporary, plain]
    assert await found(created_after=Timestamp(), created_before=Timestamp(seconds=1)) == []
    assert await found(created_by="ann", name_prefix="ab", content_types=["text/csv"]) == [temporary]
    assert await found(created_by="bob", content_types=["text/csv"]) == []


async def test_types_are_the_same_in_any_case_and_with_any_parameters(api: JobsApi) -> None:
    names = ["a", "b", "c", "d"]
    types = ["Text/CSV; charset=UTF-8", "text/csv", "TEXT/CSV;header=absent", "text/plain"]
    files = [
        await upload(api, name=name, content_type=type_) for name, type_ in zip(names, types, strict=True)
    ]
    stored = ["text/csv; charset=UTF-8", "text/csv", "text/csv;header=absent", "text/plain"]
    assert [file.content_type for file in files] == stored
    begun = await initiate(api, content_type="Text/CSV; charset=UTF-8")
    assert begun.headers["Content-Type"] == "text/csv; charset=UTF-8"

    async def found(*content_types: str) -> str:
        return "".join(file.name for file in await listed(api, page_size=2, content_types=content_types))

    for all_of_csv in ("text/csv", "TEXT/csv", "text/csv;", "Text/CSV ;"):
        assert await found(all_of_csv) == "cba", all_of_csv
    assert await found("TEXT/csv; charset=UTF-8") == "a"
    assert await found("text/csv; charset=UTF-8", "Text/Plain") == "da"
    assert await found("text/csv; charset=utf-8") == ""


async def test_a_page_token_is_good_for_a_type_in_any_case(api: JobsApi) -> None:
    for _ in range(2):
        await upload(api)
    request = files_service_pb2.ListFilesRequest(
        org_id="acme", page_size=1, content_types=["text/csv", "a/b"]
    )
    request.page_token = (await api.files.ListFiles(request)).next_page_token
    request.content_types[:] = ["A/B", "Text/CSV"]
    assert len((await api.files.ListFiles(request)).files) == 1


async def test_a_page_token_is_good_for_the_for_the_same_filters_only(api: JobsApi) -> None:
    for _ in range(3):
        await upload(api, created_by="ann")

    async def page(token: str, **filters: Any) -> files_service_pb2.ListFilesResponse:
        request = files_service_pb2.ListFilesRequest(
            org_id="acme", page_size=1, page_token=token, created_by="ann", **filters
        )
        return await api.files.ListFiles(request)

    token = (await page("")).next_page_token
    assert (await page(token)).files
    for other in (
        {"states": [file_pb2.FILE_STATE_PERSISTENT]},
        {"name_prefix": "p"},
        {"job_id": "job_" + "0" * 32},
        {"content_types": ["text/csv"]},
        {"created_after": Timestamp()},
        {"created_before": Timestamp(seconds=9)},
    ):
        assert set(await refused_fields(page(token, **other))) == {"page_token"}, other
