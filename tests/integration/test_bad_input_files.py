"""Every call of FilesService with every kind of wrong request: refused, with the field named."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from millrace.files.v1 import files_service_pb2
from millrace_database.database import Database
from support.files_api import residue
from support.jobs_api import JobsApi, refusal, serving, status_of, violations

NO_FILE = "file_" + "0" * 32
NO_UPLOAD = "upload_" + "0" * 32
BAD_ORGANISATIONS = ("", "-", "a/b", "ä", "x" * 129, "a\0")
BAD_FILE_IDS = ("", "file_", "7", NO_FILE[5:], NO_FILE + "0", "job_" + "0" * 32, NO_FILE.upper())
BLANK_NAMES = (" ", "\u00a0", "\u200b", "\u200d\ufeff \u2060", "\u3164", "\u2800", "\ufe0f", "\U000e0041")
BAD_NAMES = ("", ".", "..", "a/b", "/", "a\0b", "a\nb", "a\x7f", "\x85", "x" * 256, "ä" * 128, *BLANK_NAMES)
BAD_HEADERS: tuple[tuple[dict[str, Any], set[str]], ...] = (
    *(({"org_id": org_id}, {"header.org_id"}) for org_id in BAD_ORGANISATIONS),
    *(({"name": name}, {"header.name"}) for name in BAD_NAMES),
    *(
        ({"content_type": text}, {"header.content_type"})
        for text in (
            "csv",
            "text/",
            "text/csv\n",
            "text/csv;\0",
            "text/csv; ",
            "text/csv ",
            "text/ä",
            "a/b" + "x" * 300,
        )
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
    assert await residue(database, tmp_path) == {}


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


BAD_TIMES = (Timestamp(seconds=-(10**12)), Timestamp(seconds=10**12), Timestamp(nanos=-1))
BAD_URL_TIMES = (
    Duration(),
    Duration(nanos=999_999_999),
    Duration(seconds=-1),
    Duration(seconds=7 * 86400, nanos=1000),
    Duration(seconds=2**62),
    Duration(seconds=1, nanos=-1),
)


async def test_what_is_wrong_is_refused_with_its_fields(api: JobsApi) -> None:
    messages: Any = files_service_pb2
    cases: list[tuple[str, Message, set[str]]] = []
    for method in ("GetFile", "DownloadFile", "GetDownloadUrl", "PersistFile", "DeleteFile", "UndeleteFile"):
        request = getattr(messages, f"{method}Request")
        cases.append((method, request(), {"org_id", "file_id"}))
        cases += [(method, request(org_id=bad, file_id=NO_FILE), {"org_id"}) for bad in BAD_ORGANISATIONS]
        cases += [(method, request(org_id="acme", file_id=bad), {"file_id"}) for bad in BAD_FILE_IDS]
    for method in ("ConfirmUpload", "CancelUpload"):
        request = getattr(messages, f"{method}Request")
        cases.append((method, request(), {"org_id", "upload_id"}))
        cases += [(method, request(org_id=bad, upload_id=NO_UPLOAD), {"org_id"}) for bad in BAD_ORGANISATIONS]
        cases += [
            (method, request(org_id="acme", upload_id=bad), {"upload_id"})
            for bad in ("", NO_FILE, "upload_", NO_UPLOAD + "0")
        ]
    download = messages.DownloadFileRequest
    cases += [
        ("DownloadFile", download(org_id="acme", file_id=NO_FILE, offset=-1), {"offset"}),
        ("DownloadFile", download(org_id="acme", file_id=NO_FILE, length=-(2**63)), {"length"}),
        ("DownloadFile", download(offset=-1, length=-1), {"org_id", "file_id", "offset", "length"}),
    ]
    url = messages.GetDownloadUrlRequest
    cases += [
        ("GetDownloadUrl", url(org_id="acme", file_id=NO_FILE, expires_in=bad), {"expires_in"})
        for bad in BAD_URL_TIMES
    ]
    cases += [*_bad_limits(), *_bad_lists(), *_bad_announcements()]

    wrong_answers = []
    for method, message, expected in cases:
        answer = await _fields(_call(api, method, message))
        if answer != (grpc.StatusCode.INVALID_ARGUMENT, expected):
            wrong_answers.append((method, message, answer))

    assert wrong_answers == []


def _bad_limits() -> list[tuple[str, Message, set[str]]]:
    change, limits = files_service_pb2.UpdateFileLimitsRequest, files_service_pb2.FileLimitsUpdate
    usage = files_service_pb2.GetFileUsageRequest
    everything = limits(max_total_bytes=-1, max_files=-(2**63), max_file_bytes=-1)
    fields = {"limits.max_total_bytes", "limits.max_files", "limits.max_file_bytes"}
    return [
        *(("GetFileUsage", usage(org_id=bad), {"org_id"}) for bad in BAD_ORGANISATIONS),
        *(("UpdateFileLimits", change(org_id=bad, limits=limits()), {"org_id"}) for bad in BAD_ORGANISATIONS),
        ("UpdateFileLimits", change(), {"org_id", "limits"}),
        ("UpdateFileLimits", change(org_id="acme", limits=everything), fields),
        *(
            (
                "UpdateFileLimits",
                change(org_id="acme", limits=limits(), update_mask=FieldMask(paths=[path])),
                {"update_mask"},
            )
            for path in ("limits", "limits.max_files", "maxFiles", "*", "", "x" * 10_000)
        ),
    ]


def _bad_lists() -> list[tuple[str, Message, set[str]]]:
    listing: Any = files_service_pb2.ListFilesRequest
    cases: list[tuple[dict[str, Any], set[str]]] = [
        *(({"org_id": bad}, {"org_id"}) for bad in BAD_ORGANISATIONS),
        ({"org_id": "", "page_size": -1}, {"org_id", "page_size"}),
        *(({"page_token": token}, {"page_token"}) for token in ("x", "é", "\0")),
        ({"states": [1, 0, 7]}, {"states[1]", "states[2]"}),
        *(({"name_prefix": text}, {"name_prefix"}) for text in ("x" * 256, "ä" * 128, "a\0")),
        *(({"created_by": text}, {"created_by"}) for text in ("x" * 257, "\0")),
        *(({"job_id": text}, {"job_id"}) for text in ("7", NO_FILE, "job_")),
        ({"content_types": ["text/csv", "csv", "text/*;\0"]}, {"content_types[1]", "content_types[2]"}),
        ({"content_types": ["text/csv"] * 101}, {"content_types"}),
        *(({"created_after": time}, {"created_after"}) for time in BAD_TIMES),
        *(({"created_before": time}, {"created_before"}) for time in BAD_TIMES),
        (
            {"states": [9], "name_prefix": "\0", "job_id": "x", "content_types": ["x"], "page_size": -1},
            {"states[0]", "name_prefix", "job_id", "content_types[0]", "page_size"},
        ),
    ]
    of_uploads: Any = files_service_pb2.ListUploadsRequest
    same = {"org_id", "page_size", "page_token", "created_by"}
    return [
        *(("ListFiles", listing(**{"org_id": "acme", **fields}), expected) for fields, expected in cases),
        *(
            ("ListUploads", of_uploads(**{"org_id": "acme", **fields}), expected)
            for fields, expected in cases
            if fields.keys() <= same
        ),
    ]


def _bad_announcements() -> list[tuple[str, Message, set[str]]]:
    begin: Any = files_service_pb2.InitiateUploadRequest
    good = {"org_id": "acme", "name": "a.csv", "size_bytes": 1}
    cases: list[tuple[dict[str, Any], set[str]]] = [
        *(
            (fields, {field.removeprefix("header.") for field in expected})
            for fields, expected in BAD_HEADERS
        ),
        ({"size_bytes": 5 * 2**30 + 1}, {"size_bytes"}),
        *(({"expires_in": bad}, {"expires_in"}) for bad in (*BAD_URL_TIMES, Duration(seconds=86401))),
        ({"expires_in": Duration(), "name": "..", "size_bytes": -1}, {"expires_in", "name", "size_bytes"}),
    ]
    without_length = begin(org_id="acme", name="a.csv")
    return [
        ("InitiateUpload", begin(), {"org_id", "name", "size_bytes"}),
        ("InitiateUpload", without_length, {"size_bytes"}),
        *(("InitiateUpload", begin(**{**good, **fields}), expected) for fields, expected in cases),
    ]


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
