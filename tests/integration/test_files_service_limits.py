"""What the files of an organisation may take up, and which may be uploaded."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import code_pb2, error_details_pb2

from millrace.files.v1 import file_pb2, files_service_pb2
from millrace_database.database import Database
from support.files_api import (
    CONTENT,
    MEBIBYTE,
    chunk,
    confirm,
    header,
    initiate,
    put,
    refused_stream,
    residue,
    set_limits,
    upload,
    usage,
)
from support.jobs_api import JobsApi, detail, refusal, refused_fields, serving, status_of


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    limits = {"file_max_bytes": 3 * MEBIBYTE, "files_max_total_bytes": 4 * MEBIBYTE, "files_max_count": 3}
    async with serving(database, tmp_path, files_allowed_types=("text/*", "image/png"), **limits) as api:
        yield api


async def _exceeded(call: Any) -> tuple[str, str, int]:
    """Which quota a call would exceed, whose it is, and how much that allows."""
    return _quota(await refusal(call))


def _quota(error: grpc.RpcError) -> tuple[str, str, int]:
    status = status_of(error)
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    (violation,) = detail(status, error_details_pb2.QuotaFailure).violations
    assert violation.description == status.message
    return violation.quota_id, violation.subject, violation.quota_value


async def test_usage_counts_what_is_there_and_says_the_limits(api: JobsApi) -> None:
    limits = file_pb2.FileLimits(max_total_bytes=4 * MEBIBYTE, max_files=3, max_file_bytes=3 * MEBIBYTE)
    none_set = file_pb2.OwnFileLimits()
    assert await usage(api) == file_pb2.FileUsage(org_id="acme", limits=limits, own_limits=none_set)

    await upload(api)
    await upload(api, temporary=True)
    await upload(api, org_id="other")

    assert await usage(api) == file_pb2.FileUsage(
        org_id="acme", total_bytes=2 * len(CONTENT), files=2, limits=limits, own_limits=none_set
    )


async def test_limits_of_an_organisation_take_the_place_of_the_servers(api: JobsApi) -> None:
    set_ = await set_limits(api, max_total_bytes=0, max_file_bytes=7)

    assert set_.limits == file_pb2.FileLimits(max_total_bytes=0, max_files=3, max_file_bytes=7)
    assert set_.own_limits == file_pb2.OwnFileLimits(max_total_bytes=0, max_file_bytes=7)
    assert await usage(api) == set_
    assert (await usage(api, "other")).limits.max_file_bytes == 3 * MEBIBYTE
    assert await _exceeded(upload(api)) == ("files.max_file_bytes", "org:acme", 7)
    given_back = await set_limits(api)
    assert given_back.limits.max_file_bytes == 3 * MEBIBYTE
    assert given_back.own_limits == file_pb2.OwnFileLimits()
    await upload(api)


async def test_only_the_limits_that_a_mask_names_are_set(api: JobsApi) -> None:
    async def change(*paths: str, org_id: str = "acme", **limits: int) -> file_pb2.FileLimits:
        request = files_service_pb2.UpdateFileLimitsRequest(
            org_id=org_id,
            limits=files_service_pb2.FileLimitsUpdate(**limits),
            update_mask=FieldMask(paths=paths),
        )
        return (await api.files.UpdateFileLimits(request)).usage.limits

    await set_limits(api, max_total_bytes=5, max_files=6, max_file_bytes=7)
    changed = await change("max_files", max_files=8, max_total_bytes=9)
    assert changed == file_pb2.FileLimits(max_total_bytes=5, max_files=8, max_file_bytes=7)
    changed = await change("max_total_bytes", "max_file_bytes", max_file_bytes=0)
    assert changed == file_pb2.FileLimits(max_total_bytes=4 * MEBIBYTE, max_files=8, max_file_bytes=0)
    assert (await usage(api)).limits == changed
    of_new = await change("max_total_bytes", org_id="new", max_total_bytes=1, max_files=1)
    assert of_new == file_pb2.FileLimits(max_total_bytes=1, max_files=3, max_file_bytes=3 * MEBIBYTE)

    refused = await refused_fields(change("max_files", "org_id", "max_fies"))
    assert set(refused) == {"update_mask"}
    assert (await usage(api)).limits == changed


async def test_a_limit_that_is_lowered_removes_nothing(api: JobsApi) -> None:
    for _ in range(2):
        await upload(api)

    lowered = await set_limits(api, max_files=1, max_total_bytes=1)

    assert (lowered.files, lowered.limits.max_files) == (2, 1)
    await _exceeded(upload(api))
    assert (await usage(api)).files == 2


async def test_limits_are_set_by_themselves_for_an_organisation_that_has_nothing(api: JobsApi) -> None:
    await set_limits(api, "new", max_files=2**63 - 1)

    assert (await usage(api, "new")).limits.max_files == 2**63 - 1


async def test_a_file_that_is_announced_as_too_large_is_refused_at_once(api: JobsApi) -> None:
    call = api.files.UploadFile()
    await call.write(header(size_bytes=3 * MEBIBYTE + 1))

    assert await _exceeded(call) == ("files.max_file_bytes", "org:acme", 3 * MEBIBYTE)


async def test_a_stream_is_cut_off_as_soon_as_it_is_too_large(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    def endless() -> Iterator[files_service_pb2.UploadFileRequest]:
        yield header()
        while True:
            yield chunk(b"a" * MEBIBYTE)

    error = await refused_stream(api, endless())

    assert _quota(error) == ("files.max_file_bytes", "org:acme", 3 * MEBIBYTE)
    assert await residue(database, tmp_path) == {}


async def test_what_all_files_take_up_is_limited(api: JobsApi, database: Database, tmp_path: Path) -> None:
    await upload(api, b"a" * (2 * MEBIBYTE))

    assert await _exceeded(upload(api, b"a" * (2 * MEBIBYTE + 1))) == (
        "files.max_total_bytes",
        "org:acme",
        4 * MEBIBYTE,
    )
    await upload(api, b"a" * (2 * MEBIBYTE))
    assert await _exceeded(upload(api, b"a")) == ("files.max_total_bytes", "org:acme", 4 * MEBIBYTE)
    assert (await usage(api)).total_bytes == 4 * MEBIBYTE


async def test_how_many_files_there_are_is_limited(api: JobsApi) -> None:
    for _ in range(3):
        await upload(api, b"")

    assert await _exceeded(upload(api, b"")) == ("files.max_files", "org:acme", 3)


async def test_of_uploads_at_the_same_time_no_more_succeed_than_fit(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    answers = await asyncio.gather(*(upload(api) for _ in range(8)), return_exceptions=True)

    assert sum(isinstance(answer, file_pb2.File) for answer in answers) == 3
    assert (await usage(api)).files == 3
    left = await residue(database, tmp_path)
    assert {name: left[name] for name in left if name != "objects"} == {
        "counted": [("acme", 3 * len(CONTENT), 3)],
        "files": 3,
    }


async def test_what_is_announced_of_presigned_uploads_must_fit_together(api: JobsApi) -> None:
    half = b"a" * (2 * MEBIBYTE)
    first, _ = await initiate(api, half), await initiate(api, half)

    assert await _exceeded(initiate(api, b"a")) == ("files.max_total_bytes", "org:acme", 4 * MEBIBYTE)
    too_large = bytes(3 * MEBIBYTE + 1)
    assert await _exceeded(initiate(api, too_large, org_id="other")) == (
        "files.max_file_bytes",
        "org:other",
        3 * MEBIBYTE,
    )
    await put(first, half)
    await set_limits(api, max_total_bytes=1)
    assert await _exceeded(confirm(api, first.upload_id)) == ("files.max_total_bytes", "org:acme", 1)
    await set_limits(api)
    assert (await confirm(api, first.upload_id)).size_bytes == len(half)


async def test_an_organisation_has_so_many_uploads_open(api: JobsApi, database: Database) -> None:
    await set_limits(api, max_files=0)
    await initiate(api, b"")
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO file_uploads (upload_id, org_id, kind, name, content_type, size_bytes, provider, object_key,"
            " expires_at) SELECT gen_random_uuid(), 'acme', 'presigned', 'a', 'text/csv', 0, 'local', 'incoming/' || n,"
            " now() + interval '1 hour' FROM generate_series(1, 999) AS n"
        )

    assert await _exceeded(initiate(api, b"")) == ("files.open_uploads", "org:acme", 1000)
    await initiate(api, b"", org_id="other")


@pytest.mark.parametrize(
    ("fields", "content", "allowed"),
    [
        ({"name": "a.csv"}, CONTENT, True),
        ({"name": "a.png"}, b"\x89PNG\r\n\x1a\n" + bytes(64), True),
        ({"name": "a.zip"}, b"", False),
        ({"name": "a.csv"}, b"%PDF-1.7\n" + bytes(100), False),
        ({"name": "a.pdf", "content_type": "text/plain"}, b"%PDF-1.7\n" + bytes(100), False),
        ({"name": "a", "content_type": "TEXT/Plain; charset=utf-8"}, CONTENT, True),
    ],
)
async def test_only_types_that_are_allowed_come_in(
    api: JobsApi,
    database: Database,
    tmp_path: Path,
    *,
    fields: dict[str, str],
    content: bytes,
    allowed: bool,
) -> None:
    if allowed:
        await upload(api, content, **fields)
    else:
        refused = await refused_fields(upload(api, content, **fields))
        assert set(refused) == {"header.content_type"}
        assert "only text/*, image/png" in refused["header.content_type"]
        assert await residue(database, tmp_path) == {}
