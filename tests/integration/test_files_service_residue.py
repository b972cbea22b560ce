"""What an attacker sends, or a mistake: refused with the reason, and nothing of it stays inside."""

import asyncio
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.files.v1 import files_service_pb2
from millrace_database.database import Database
from millrace_jobs.file_names import check_file_name
from millrace_runtime.validation import Violations
from support.files_api import (
    CONTENT,
    MEBIBYTE,
    cancel,
    chunk,
    confirm,
    content_of,
    delete,
    get,
    header,
    initiate,
    put,
    refused_stream,
    residue,
    rows,
    set_limits,
    stored,
    upload,
)
from support.jobs_api import JobsApi, detail, refusal, refused_fields, serving, status_of, violations
from support.polling import eventually

_BAD_NAMES = (
    "",
    " ",
    "\u00a0\u2003",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../../etc/passwd",
    "a/../../b",
    "a/b",
    "a/",
    "a\0.csv",
    "a\r\nb",
    "a\tb",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "a\u2028b",
    "a\u2029b",
    "report\u202efdp.exe",
    "\u2066a",
    "x" * 256,
    "x" * 10_000,
    "ä" * 128,
    "../" * 4000,
)
# Strange, and harmless here, where a name never becomes a path.
_STRANGE_NAMES = (
    "...",
    ".bashrc",
    "-rf",
    "a\\..\\b",
    "C:\\Windows\\system32",
    "CON",
    "nul.txt",
    "a:b",
    "a.",
    "a ",
    " a",
    "~",
    "$(id)",
    "%2e%2e%2fa",
    "a;b|c&d",
    "'; DROP TABLE files; --",
    "<img src=x onerror=alert(1)>",
    '"',
    "\u0646\u0645\u0648\u0646\u0647\u200c\u0647\u0627.csv",
    "👩\u200d🚀.png",
    "\ufeffa",
    "e\u0301",
    "x" * 255,
    "ä" * 127,
    "\U0010ffff",
)


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[JobsApi]:
    async with serving(database, tmp_path, files_allowed_types=("text/*", "image/png")) as api:
        yield api


async def test_names_that_are_paths_or_deceive_are_refused(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    for name in _BAD_NAMES:
        assert set(await refused_fields(upload(api, name=name))) == {"header.name"}, name
        assert set(await refused_fields(initiate(api, name=name))) == {"name"}, name

    assert await residue(database, tmp_path) == {}


async def test_strange_names_are_kept_and_become_no_path(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    before = _outside(tmp_path)
    for name in _STRANGE_NAMES:
        file = await upload(api, name=name, content_type="text/plain")
        assert (file.name, (await get(api, file.file_id)).name) == (name, name)
        assert await content_of(api, file.file_id) == CONTENT
        announced = await initiate(api, name=name, content_type="text/plain")
        assert await put(announced) == 200, name
        assert (await confirm(api, announced.upload_id)).name == name

    names = {path.name for path in stored(tmp_path)}
    assert len(names) == 2 * len(_STRANGE_NAMES)
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)
    assert _outside(tmp_path) == before


def _outside(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and folder / "files" not in path.parents}


@given(st.text(max_size=300))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_name_that_is_taken_is_one_line_that_names_no_folder(name: str) -> None:
    violations = Violations()
    check_file_name("name", name, violations)

    if not violations:
        assert 0 < len(name.encode()) <= 255
        assert name.splitlines() == [name]
        assert "/" not in name
        assert name.strip() not in ("", ".", "..") or name not in (".", "..")
        assert not any(unicodedata.category(character) == "Cc" for character in name)


async def test_a_link_in_the_store_leads_nowhere(api: JobsApi, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    file = await upload(api)
    (path,) = stored(tmp_path)
    path.unlink()
    path.symlink_to(secret)

    error = await refusal(content_of(api, file.file_id))

    assert error.code() is grpc.StatusCode.DATA_LOSS


@pytest.mark.parametrize(
    ("announced", "content", "field"),
    [
        ({"size_bytes": len(CONTENT) + 1}, CONTENT, "size_bytes"),
        ({"size_bytes": len(CONTENT) - 1}, CONTENT, "size_bytes"),
        ({"size_bytes": 0}, CONTENT, "size_bytes"),
        ({"size_bytes": 2**63 - 1}, CONTENT, None),
        ({"sha256": "0" * 64}, CONTENT, "sha256"),
        ({"size_bytes": len(CONTENT), "sha256": "f" * 64}, CONTENT, "sha256"),
        ({"content_type": "application/zip"}, b"PK\x03\x04" + bytes(64), "content_type"),
        ({"name": "a.exe", "content_type": "text/plain"}, b"\x7fELF\x02\x01\x01" + bytes(64), "content_type"),
        ({"content_type": "text/plain"}, b"%PDF-1.7\n" + bytes(9 * MEBIBYTE), "content_type"),
    ],
)
async def test_content_that_is_not_what_was_announced_leaves_nothing(
    api: JobsApi,
    database: Database,
    tmp_path: Path,
    *,
    announced: dict[str, Any],
    content: bytes,
    field: str | None,
) -> None:
    parts = [content[place : place + MEBIBYTE] for place in range(0, len(content), MEBIBYTE)]
    error = await refused_stream(api, [header(**announced), *(chunk(part) for part in parts)])

    status = status_of(error)
    if field is None:
        assert status.code == code_pb2.RESOURCE_EXHAUSTED
    else:
        assert status.code == code_pb2.INVALID_ARGUMENT
        assert set(violations(status)) == {f"header.{field}"}
    assert await residue(database, tmp_path) == {}


@pytest.mark.parametrize(
    "messages",
    [
        [header(), chunk(bytes(MEBIBYTE)), header()],
        [header(), chunk(b"a"), chunk(bytes(MEBIBYTE + 1))],
        [header(name="a.txt", size_bytes=3 * MEBIBYTE), *[chunk(b"a" * MEBIBYTE)] * 4],
    ],
)
async def test_a_stream_that_breaks_the_rules_in_the_middle_leaves_nothing(
    api: JobsApi, database: Database, tmp_path: Path, messages: list[Any]
) -> None:
    messages[0].header.content_type = "text/plain"

    error = await refused_stream(api, messages)

    assert status_of(error).code == code_pb2.INVALID_ARGUMENT
    assert await residue(database, tmp_path) == {}


async def test_streams_that_are_aborted_leave_nothing(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    async def aborted(parts: int) -> None:
        call = api.files.UploadFile()
        await call.write(header(name="a.txt"))
        for _ in range(parts):
            await call.write(chunk(b"a" * MEBIBYTE))
        if parts:
            await eventually(lambda: rows(database, "file_uploads"))
        call.cancel()

    async def is_clean() -> bool:
        return await residue(database, tmp_path) == {}

    await asyncio.gather(*(aborted(parts) for parts in (0, 1, 2, 4, 4)))
    await eventually(is_clean)


@pytest.mark.parametrize("pieces", [(), (CONTENT,), (CONTENT, b"", b"")])
async def test_an_upload_in_which_nothing_arrives_is_aborted(
    api: JobsApi,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pieces: tuple[bytes, ...],
) -> None:
    monkeypatch.setattr("millrace_jobs.file_uploads._SILENT_SECONDS", 0.2)
    call = api.files.UploadFile()
    for message in (header(), *map(chunk, pieces)):
        await call.write(message)

    error = await refusal(call)

    assert error.code() is grpc.StatusCode.ABORTED
    assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "UPLOAD_GIVEN_UP"
    assert await residue(database, tmp_path) == {}


async def test_empty_chunks_do_not_keep_an_upload_going(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_jobs.file_uploads._SILENT_SECONDS", 0.5)

    def nothing() -> Iterator[files_service_pb2.UploadFileRequest]:
        yield header()
        while True:
            time.sleep(0.02)
            yield chunk(b"")

    async with asyncio.timeout(30):
        assert status_of(await refused_stream(api, nothing())).code == code_pb2.ABORTED


async def test_an_upload_that_was_given_up_meanwhile_is_aborted(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    call = api.files.UploadFile()
    await call.write(header())
    await call.write(chunk(CONTENT))
    await eventually(lambda: rows(database, "file_uploads"))
    async with database.connection() as connection:
        await connection.execute("DELETE FROM file_uploads")
    await call.done_writing()

    error = await refusal(call)

    assert error.code() is grpc.StatusCode.ABORTED
    assert detail(status_of(error), error_details_pb2.ErrorInfo).reason == "UPLOAD_GIVEN_UP"
    assert await residue(database, tmp_path) == {}


async def test_what_a_limit_cuts_off_leaves_nothing(api: JobsApi, database: Database, tmp_path: Path) -> None:
    await set_limits(api, max_total_bytes=2 * MEBIBYTE)

    error = await refused_stream(api, [header(), *[chunk(b"a" * MEBIBYTE)] * 4])

    assert status_of(error).code == code_pb2.RESOURCE_EXHAUSTED
    assert await residue(database, tmp_path) == {}


async def test_a_presigned_upload_of_something_else_can_be_repeated_or_given_up(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    right = b"right\n"
    announced = await initiate(api, right, sha256="0" * 64)
    assert await put(announced, right) == 200
    assert set(await refused_fields(confirm(api, announced.upload_id))) == {"sha256"}
    assert await rows(database) == 0

    await cancel(api, announced.upload_id)

    assert await residue(database, tmp_path) == {}


@pytest.mark.parametrize("content", [b"short", b"", CONTENT + b"longer"])
async def test_a_presigned_request_takes_no_other_length(
    api: JobsApi, database: Database, tmp_path: Path, content: bytes
) -> None:
    announced = await initiate(api)

    status = await put(announced, content, Content_Length=str(len(content)))

    assert status in (400, 403, 413)
    assert stored(tmp_path) == []
    error = await refusal(confirm(api, announced.upload_id))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    await cancel(api, announced.upload_id)
    assert await residue(database, tmp_path) == {}


async def test_what_is_deleted_for_good_leaves_nothing(
    api: JobsApi, database: Database, tmp_path: Path
) -> None:
    file = await upload(api)
    await delete(api, file.file_id)
    other = await upload(api)

    for file_id in (file.file_id, other.file_id):
        await delete(api, file_id, permanently=True)

    async def is_clean() -> bool:
        return await residue(database, tmp_path) == {}

    await eventually(is_clean)
