"""What is read of large tables of files, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from millrace_database import file_statements
from millrace_database.file_list_statement import FileFilters, list_statement
from millrace_database.ids import first_id, new_id
from support.large_tables import Reads, filled_database, reads_of, rolled_back

_FILES = 200_000
_PAGE = 50
_JOB = new_id()

# One file a minute, the newest an hour old. What is rare is rare: an organisation, a creator, a type, a name, a state; and of
# half of the organisation "past" there is nothing new. The newest thousand files of "acme" are deleted, or have expired.
_FILL = """
INSERT INTO files (
    file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, created_by, created_at, job_id, state,
    expires_at, deleted_at
)
SELECT
    (lpad(to_hex((extract(epoch FROM time) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
    CASE WHEN n % 1000 = 1 THEN 'small' WHEN n > $1 / 2 AND n % 2 = 0 THEN 'past' ELSE 'acme' END,
    CASE WHEN n % 1000 = 2 THEN 'rare ' ELSE 'report ' END || n,
    CASE WHEN n % 1000 = 3 THEN 'application/pdf' WHEN n % 1000 = 4 THEN 'text/csv; header=absent' WHEN n % 10 = 5 THEN 'application/json' ELSE 'text/csv' END,
    1, '', 'local', n::text,
    CASE WHEN n % 1000 = 6 THEN 'bob' ELSE 'ann' END,
    time,
    CASE WHEN n % 1000 = 7 THEN $2::uuid WHEN n % 2 = 0 THEN gen_random_uuid() END,
    CASE WHEN n % 1000 = 8 THEN 'with_job' WHEN n % 1000 = 9 OR n < 500 THEN 'temporary' ELSE 'persistent' END,
    CASE WHEN n < 500 THEN now() - interval '1 minute' WHEN n % 1000 = 9 OR n < 1000 THEN now() + interval '1 day' END,
    CASE WHEN n BETWEEN 500 AND 999 THEN now() END
FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT now() - (n + 59) * interval '1 minute' AS time) AS derived
"""
_FILL_UPLOADS = """
INSERT INTO file_uploads (
    upload_id, org_id, kind, name, content_type, size_bytes, provider, object_key, expires_at, file_id, created_by
)
SELECT gen_random_uuid(), CASE WHEN n % 1000 = 1 THEN 'small' ELSE 'acme' END,
    CASE WHEN n % 3 = 0 THEN 'stream' ELSE 'presigned' END, 'a', 'text/csv', 1, 'local', 'upload ' || n, now() + interval '1 hour',
    CASE WHEN n % 3 = 1 THEN gen_random_uuid() END, CASE WHEN n % 3000 = 2 THEN 'bob' ELSE 'ann' END
FROM generate_series(1, $1::integer) AS n
"""


@pytest.fixture(scope="module")
def large_url(postgres_url: str) -> Iterator[str]:
    with filled_database(postgres_url, _filled) as url:
        yield url


async def _filled(url: str, conn: asyncpg.Connection) -> str:
    await conn.execute(_FILL, _FILES, _JOB)
    await conn.execute(_FILL_UPLOADS, 20_000)
    await conn.execute(
        "INSERT INTO file_removals (object_key, provider) SELECT n::text, 'local' FROM generate_series(1, 20000) AS n"
    )
    await conn.execute("INSERT INTO file_usage (org_id) SELECT n::text FROM generate_series(1, 20000) AS n")
    await conn.execute("ANALYZE files, file_uploads, file_removals, file_usage")
    return url


@pytest.fixture
async def conn(large_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with rolled_back(large_url) as connection:
        yield connection


async def _reads(
    conn: asyncpg.Connection, filters: FileFilters, org_id: str = "acme", after: UUID | None = None
) -> Reads:
    statement = list_statement(org_id, filters, after, _PAGE)
    query = statement.compile(dialect=dialect())  # type: ignore[no-untyped-call]
    arguments = [query.params[name] for name in query.positiontup or ()]
    return await reads_of(conn, query.string, *arguments)


def _ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


# Each file of the page is read twice: to find its id, and whole.
_TWICE = 2 * _PAGE


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("org_id", ["acme", "small", "past"])
async def test_a_page_of_all_files(conn: asyncpg.Connection, org_id: str, *, is_first: bool) -> None:
    reads = await _reads(conn, FileFilters(), org_id, None if is_first else first_id(_ago(80)))
    # Of each state a page at most, and those that have expired and are not removed yet.
    assert 0 < reads.rows["files"] <= 4 * _PAGE + (500 if org_id == "acme" and is_first else 0)


@pytest.mark.parametrize(
    ("filters", "most"),
    [
        (FileFilters(states=["with_job"]), 1 + _TWICE),
        (FileFilters(states=["temporary"]), 500 + _TWICE),
        (FileFilters(states=["persistent"]), _TWICE),
        (FileFilters(states=["persistent", "with_job"]), 3 * _PAGE),
        (FileFilters(states=["deleted"]), _TWICE),
        (FileFilters(states=["deleted", "with_job"]), 1 + 3 * _PAGE),
        (FileFilters(created_by="bob"), 1 + _TWICE),
        (FileFilters(created_by="eve"), 0),
        (FileFilters(name_prefix="rare "), 2 * _FILES / 1000),
        (FileFilters(name_prefix="rare 12"), _TWICE),
        (FileFilters(name_prefix="nothing"), 0),
        # Deleted files have names too.
        (FileFilters(name_prefix="report "), 1_000 + _TWICE),
        (FileFilters(content_types=["application/pdf"]), 1 + _TWICE),
        (FileFilters(content_types=["application/pdf", "image/png", "image/gif"]), 1 + _TWICE),
        (FileFilters(content_types=["text/csv; header=absent"]), 1 + _TWICE),
        (FileFilters(content_types=["text/csv; header=absent", "application/pdf"]), 2 + 3 * _PAGE),
        (FileFilters(content_types=["text/csv; header=present", "image/png"]), 0),
        (FileFilters(content_types=["application/pdf"], created_by="bob"), 2 * _FILES / 1000),
        (FileFilters(job_id=_JOB), 2 * _FILES / 1000),
        (FileFilters(job_id=_JOB, created_by="ann", states=["persistent"]), 2 * _FILES / 1000),
        (FileFilters(job_id=new_id()), 0),
        # The clocks of services may be an hour off, in which there are 60 files, that each state is looked for among.
        (FileFilters(created_after=_ago(10), created_before=_ago(9.96)), 3 * 180 + _TWICE),
        (FileFilters(created_before=_ago(30)), 3 * (_PAGE + 60) + _PAGE),
        # The files may come an hour after this list, in a long run of all tests.
        (FileFilters(created_after=_ago(0.04)), 3 * 120),
        (FileFilters(created_by="bob", created_after=_ago(100), created_before=_ago(90)), _TWICE),
    ],
)
async def test_a_filter_goes_by_its_index(
    conn: asyncpg.Connection, filters: FileFilters, most: float
) -> None:
    assert (await _reads(conn, filters)).rows["files"] <= most


@pytest.mark.parametrize(
    ("statement", "more"),
    [
        (file_statements.GET_FILE, []),
        (file_statements.PERSIST_FILE, []),
        (file_statements.DELETE_FILE, [timedelta(days=7)]),
        (file_statements.UNDELETE_FILE, [timedelta(days=1)]),
        (file_statements.REMOVE_FILE, []),
    ],
)
async def test_a_file_is_looked_up_by_its_id(
    conn: asyncpg.Connection, statement: str, more: list[Any]
) -> None:
    file_id = await conn.fetchval("SELECT file_id FROM files WHERE object_key = '1500'")
    assert (await reads_of(conn, statement, file_id, "acme", *more)).rows["files"] <= 1


async def test_an_object_is_looked_up_by_its_key(conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, file_statements.IS_FILE, "1500")).rows["files"] <= 1
    assert (await reads_of(conn, file_statements.DROP_REMOVAL, "15", "local", "")).rows["file_removals"] == 1


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (file_statements.PUT_OFF_EXPIRY, ["upload 3", timedelta(minutes=15)]),
        (
            file_statements.FINISH_UPLOAD,
            ["upload 3", new_id(), "text/csv", 1, "", None, "persistent", timedelta(days=1)],
        ),
        (file_statements.GIVE_UPLOAD_UP, ["upload 3"]),
        (file_statements.SET_ASIDE, ["upload 3"]),
        (file_statements.SET_EXPIRED_ASIDE, []),
        (file_statements.CANCEL_PRESIGNED, ["acme"]),
        (file_statements.GET_PRESIGNED, ["acme"]),
        (file_statements.LOCK_PRESIGNED, ["acme"]),
        (file_statements.CONFIRM_PRESIGNED, [new_id()]),
    ],
)
async def test_an_upload_is_looked_up_by_its_id(
    conn: asyncpg.Connection, statement: str, arguments: list[Any]
) -> None:
    upload_id = await conn.fetchval("SELECT upload_id FROM file_uploads WHERE object_key = 'upload 3'")
    assert (await reads_of(conn, statement, upload_id, *arguments)).rows["file_uploads"] <= 1


async def test_the_open_uploads_of_an_organisation_are_looked_up_by_it(conn: asyncpg.Connection) -> None:
    assert (await reads_of(conn, file_statements.OPEN_PRESIGNED, "small")).rows["file_uploads"] <= 20


@pytest.mark.parametrize("after", [None, UUID(int=2**127)])
@pytest.mark.parametrize(
    ("org_id", "created_by", "most"),
    [
        ("small", None, 20),
        ("acme", None, _PAGE),
        ("acme", "bob", 20),
        ("acme", "eve", 0),
        ("small", "bob", 0),
    ],
)
async def test_a_page_of_open_uploads(
    conn: asyncpg.Connection, org_id: str, created_by: str | None, most: int, after: UUID | None
) -> None:
    statement = file_statements.LIST_OPEN if created_by is None else file_statements.LIST_OPEN_OF_CREATOR
    creators = [] if created_by is None else [[created_by]]
    reads = await reads_of(conn, statement, [org_id], after, _PAGE, *creators)
    assert reads.rows["file_uploads"] <= most


async def test_what_files_take_up_is_looked_up_by_the_organisation(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, file_statements.GET_USAGE, "1500")
    assert "file_usage_pkey" in reads.plan
