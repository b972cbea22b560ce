"""Every call of FilesService with every kind of wrong request: refused, with the field named."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from millrace.files.v1 import files_service_pb2
from millrace_database.database import Database
from support.jobs_api import JobsApi, refusal, serving, status_of, violations

NO_FILE = "file_" + "0" * 32
BAD_ORGANISATIONS = ("", "-", "a/b", "ä", "x" * 129, "a\0")
BAD_FILE_IDS = ("", "file_", "7", NO_FILE[5:], NO_FILE + "0", "job_" + "0" * 32, NO_FILE.upper())
BAD_NAMES = ("", ".", "..", "a/b", "/", "a\0b", "a\nb", "a\x7f", "\x85", "x" * 256, "ä" * 128)
BAD_HEADERS: tuple[tuple[dict[str, Any], set[str]], ...] = (
    *(({"org_id": org_id}, {"header.org_id"}) for org_id in BAD_ORGANISATIONS),
    *(({"name": name}, {"header.name"}) for name in BAD_NAMES),
    *(
        ({"content_type": text}, {"header.content_type"})
        for text in ("csv", "text/", "text/csv\n", "text/csv;\0", "text/ä", "a/b" + "x" * 300)
    ),
    ({"size_bytes": -1}, {"header.size_bytes"}),
    *(({"sha256": text}, {"header.sha256"}) for text in ("x", "0" * 63, "0" * 65, "g" * 64)),
    ({"created_by": "x" * 257}, {"header.created_by"}),
    ({"created_by": "\0"}, {"header.created_by"}),
    ({"name": "..", "size_bytes": -1, "sha256": "?"}, {"header.name", "header.size_bytes", "header.sha256"}),
)


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path) as api:
        yield api


async def _upload(api: JobsApi, *messages: files_service_pb2.UploadFileRequest) -> None:
    async def requests() -> AsyncIterator[files_service_pb2.UploadFileRequest]:
        for message in messages:
            yield message

    await api.files.UploadFile(requests())


async def _fields(call: Any) -> tuple[grpc.StatusCode, set[str]]:
    error = await refusal(call)
    return error.code(), set(violations(status_of(error)))


async def test_an_upload_with_a_wrong_header_is_refused_and_leaves_nothing(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    wrong_answers = []
    for fields, expected in BAD_HEADERS:
        header = files_service_pb2.UploadFileHeader(**{"org_id": "acme", "name": "a.csv", **fields})
        messages = (
            files_service_pb2.UploadFileRequest(header=header),
            files_service_pb2.UploadFileRequest(chunk=b"content"),
        )
        answer = await _fields(_upload(api, *messages))
        if answer != (grpc.StatusCode.INVALID_ARGUMENT, expected):
            wrong_answers.append((fields, answer))

    assert wrong_answers == []
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM files") == 0


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (files_service_pb2.UploadFileRequest(),),
        (files_service_pb2.UploadFileRequest(chunk=b"content"),),
    ],
)
async def test_an_upload_without_a_header_is_refused(
    api: JobsApi, messages: tuple[files_service_pb2.UploadFileRequest, ...]
) -> None:
    assert await _fields(_upload(api, *messages)) == (grpc.StatusCode.INVALID_ARGUMENT, {"header"})


async def test_what_is_wrong_is_refused_with_its_fields(api: JobsApi) -> None:
    cases: list[tuple[str, Message, set[str]]] = []
    for method in ("GetFile", "DownloadFile"):
        request: Any = getattr(files_service_pb2, f"{method}Request")
        cases.append((method, request(), {"org_id", "file_id"}))
        cases += [(method, request(org_id=bad, file_id=NO_FILE), {"org_id"}) for bad in BAD_ORGANISATIONS]
        cases += [(method, request(org_id="acme", file_id=bad), {"file_id"}) for bad in BAD_FILE_IDS]
    listing: Any = files_service_pb2.ListFilesRequest
    cases += [("ListFiles", listing(org_id=bad), {"org_id"}) for bad in BAD_ORGANISATIONS]
    cases.append(("ListFiles", listing(org_id="", page_size=-1), {"org_id", "page_size"}))
    cases += [
        ("ListFiles", listing(org_id="acme", page_token=token), {"page_token"}) for token in ("x", "é", "\0")
    ]

    wrong_answers = []
    for method, message, expected in cases:
        answer = await _fields(_call(api, method, message))
        if answer != (grpc.StatusCode.INVALID_ARGUMENT, expected):
            wrong_answers.append((method, message, answer))

    assert wrong_answers == []


async def _call(api: JobsApi, method: str, request: Message) -> None:
    call = getattr(api.files, method)(request)
    if method == "DownloadFile":
        await anext(aiter(call))
    else:
        await call


async def test_a_request_that_cannot_be_parsed_is_refused(api: JobsApi) -> None:
    async with grpc.aio.insecure_channel(api.address) as channel:
        for method in ("GetFile", "ListFiles", "UploadFile"):
            call: Any = channel.unary_unary(f"/millrace.files.v1.FilesService/{method}")
            error = await refusal(call(b"\xff\xff"))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
