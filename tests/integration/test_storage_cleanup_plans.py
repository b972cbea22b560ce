"""What the statements of the clean-up read among many files, by EXPLAIN ANALYZE."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database import retention_statements
from millrace_database import storage_cleanup_repository as repository
from millrace_database import storage_cleanup_statements as statements
from millrace_database.database import Database
from millrace_database.ids import new_id
from support.large_tables import fill_jobs, filled_database, reads_of

_FILES = 100_000
_JOBS = 10_000
_UPLOADS = 20_000
_BATCH = 1_000
_NEW_AND_NOT_DUE = 90
_HOUR = timedelta(hours=1)
_READ_OF_REMOVALS = (
    "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'file_removals'"
)

# One in 50 has expired, every other one is kept as long as its job; the job of some is gone. Of the objects that are to be
# removed most wait for another try, one in 10 is due, and half of these nobody has tried yet.
_FILL = (
    """
INSERT INTO files (
    file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, job_id, state, expires_at
)
SELECT gen_random_uuid(), 'org_' || n % 1000, 'a.csv', 'text/csv', 7, '', 'local', 'org-org_' || n % 1000 || '/00/' || n,
    CASE WHEN n % 2 = 0 THEN job.job_id END,
    CASE WHEN n % 2 = 0 THEN 'with_job' WHEN n % 50 = 1 THEN 'temporary' ELSE 'persistent' END,
    CASE WHEN n % 50 = 1 THEN now() - n * interval '1 second' END
FROM generate_series(1, $1::integer) AS n
    JOIN (SELECT job_id, row_number() OVER (ORDER BY job_id) AS number FROM jobs) AS job ON job.number = n % 10000 + 1
    """,
    """
INSERT INTO file_uploads (upload_id, org_id, kind, name, content_type, provider, object_key, expires_at)
SELECT gen_random_uuid(), 'org_1', CASE WHEN n % 2 = 0 THEN 'stream' ELSE 'presigned' END, 'a.csv', 'text/csv', 'local',
    'incoming/00/' || n, now() - interval '1 hour' * CASE WHEN n <= $1 / 10 THEN 2 ELSE -1 END
FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO file_removals (object_key, provider, bucket, due_at, attempts)
SELECT 'org-gone/00/' || n, CASE WHEN n % 2 = 0 THEN 'local' ELSE 's3' END, '',
    now() + (n - $1 / 10) * interval '1 second' + CASE WHEN n > $1 / 10 THEN interval '1 hour' ELSE interval '0' END,
    CASE WHEN n <= $1 / 10 AND n % 4 < 2 OR n % 1000 = 0 THEN 0 ELSE 1 END
FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO file_usage (org_id, total_bytes, files) SELECT 'org_' || n % 1000, 700, 100 FROM generate_series(1, 1000) AS n
WHERE $1::integer > 0
    """,
)


@dataclass
class _Large:
    url: str
    keys: list[str]
    job_id: UUID


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[_Large]:
    with filled_database(postgres_url, _filled) as filled:
        yield filled


async def _filled(url: str, conn: asyncpg.Connection) -> _Large:
    await fill_jobs(conn, _JOBS, new_id())
    for statement, count in zip(_FILL, (_FILES, _UPLOADS, _FILES, 1), strict=True):
        await conn.execute(statement, count)
    await conn.execute(
        "INSERT INTO queue (id, type, tenant, max_attempts) SELECT job_id, type, org_id, 4 FROM jobs"
    )
    gone = "SELECT job_id FROM (SELECT job_id, row_number() OVER (ORDER BY job_id) AS n FROM jobs) AS job WHERE n % 10 = 1"
    for table, id_ in (("queue", "id"), ("jobs", "job_id")):
        await conn.execute(f"DELETE FROM {table} WHERE {id_} IN ({gone})")  # noqa: S608 - constants
    await conn.execute("ANALYZE files, file_uploads, file_removals, file_usage, jobs, queue")
    keys = await conn.fetch("SELECT object_key FROM files LIMIT $1", _BATCH)
    job_id = await conn.fetchval("SELECT job_id FROM files WHERE job_id IS NOT NULL ORDER BY 1 OFFSET 25000")
    return _Large(url, [row["object_key"] for row in keys], job_id)


@pytest.fixture
async def conn(large: _Large) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that is rolled back."""
    database = await Database.open(large.url, application_name="test")
    try:
        async with database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            yield connection
            await transaction.rollback()
    finally:
        await database.close()


async def test_uploads_are_given_up_by_a_batch(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, statements.GIVE_UP_UPLOADS, _HOUR, None, _BATCH)
    # Once to lock them, once to delete them.
    assert reads.rows["file_uploads"] == 2 * _BATCH


async def test_of_what_confirmations_have_moved_each_upload_is_looked_up(conn: asyncpg.Connection) -> None:
    moved = await conn.fetch(
        """
        UPDATE file_uploads SET confirms = pair.confirms, expires_at = 'epoch'
        FROM (
            SELECT stream.upload_id, open.upload_id AS confirms
            FROM (SELECT upload_id, row_number() OVER () AS n FROM file_uploads WHERE kind = 'stream' LIMIT 100) AS stream
                JOIN (
                    SELECT upload_id, row_number() OVER () AS n FROM file_uploads
                    WHERE kind = 'presigned' AND expires_at > now()
                ) AS open USING (n)
        ) AS pair
        WHERE file_uploads.upload_id = pair.upload_id
        RETURNING file_uploads.upload_id
        """
    )
    reads = await reads_of(conn, statements.GIVE_UP_UPLOADS, _HOUR, None, _BATCH)
    assert 2 * _BATCH < reads.rows["file_uploads"] <= 2 * (_BATCH + len(moved))
    assert await conn.fetchval("SELECT count(*) FROM file_uploads WHERE confirms IS NOT NULL") == 100


async def test_expired_files_are_removed_by_a_batch(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, statements.REMOVE_EXPIRED_FILES, None, _BATCH)
    # Once to lock them, once to delete them.
    assert reads.rows["files"] == 2 * _BATCH


async def test_what_has_not_expired_is_not_read(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, statements.REMOVE_EXPIRED_FILES, datetime.now(UTC), _BATCH)
    assert reads.rows["files"] == 0


async def test_the_expired_files_of_an_organisation_are_found_among_many(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, statements.REMOVE_EXPIRED_FILES_OF, "org_1", _BATCH)
    # One in 1000 is the organisation's, and all of them have expired.
    assert reads.rows["files"] == 2 * _FILES // 1000
    assert "files_by_org_expiring" in reads.plan
    reads = await reads_of(conn, statements.REMOVE_EXPIRED_FILES_OF, "org_2", _BATCH)
    assert reads.rows["files"] == 0


@pytest.mark.parametrize(
    "statement", [statements.EXPIRE_FILES_OF_GONE_JOBS, statements.COUNT_FILES_OF_GONE_JOBS]
)
async def test_files_of_gone_jobs_are_searched_by_a_page(
    large: _Large, conn: asyncpg.Connection, statement: str
) -> None:
    [page] = await conn.fetch(statement, large.job_id, UUID(int=0), _BATCH)
    assert 0 < page["count"] < page["visited"] == _BATCH
    reads = await reads_of(conn, statement, page["last_job_id"], page["last_file_id"], _BATCH)
    # The page, the rest of the last one's job, and what has expired, once to lock it, once to change it.
    assert reads.rows["files"] <= 2 * _BATCH
    assert reads.rows["jobs"] <= _BATCH


async def test_the_files_of_many_in_one_job_are_a_page_after_the_other(
    large: _Large, conn: asyncpg.Connection
) -> None:
    await conn.execute("UPDATE files SET job_id = $1 WHERE job_id > $1 AND state = 'with_job'", large.job_id)
    [page] = await conn.fetch(statements.COUNT_FILES_OF_GONE_JOBS, large.job_id, large.job_id, _BATCH)
    reads = await reads_of(
        conn, statements.COUNT_FILES_OF_GONE_JOBS, page["last_job_id"], page["last_file_id"], _BATCH
    )
    assert reads.rows["files"] <= _BATCH


@pytest.mark.parametrize(
    ("statement", "first", "index"),
    [
        (statements.TAKE_NEW_REMOVALS, "", "file_removals_new"),
        (statements.TAKE_REMOVALS, None, "file_removals_due"),
    ],
)
async def test_removals_are_taken_by_a_batch(
    conn: asyncpg.Connection, statement: str, first: str | None, index: str
) -> None:
    now = datetime.now(UTC)
    taking = (now, ["s3"], [""], [""], _BATCH, _HOUR, 24 * _HOUR)
    await conn.execute(statements.SORT_NOTHING)
    reads = await reads_of(conn, statement, *taking, first)
    # Every other one is of a store that is away; and once to change them.
    assert reads.rows["file_removals"] <= 3 * _BATCH + _NEW_AND_NOT_DUE
    assert index in reads.plan
    rows = await conn.fetch(statement, *taking, first)
    keys = [row["object_key"] for row in rows]
    assert len(keys) == _BATCH
    reads = await reads_of(conn, statements.REMOVALS_DONE, "local", "", keys)
    assert reads.rows["file_removals"] == _BATCH


@pytest.mark.parametrize("attempts", [0, 1])
async def test_many_removals_that_came_at_once_are_taken_by_a_batch(
    database: Database, attempts: int
) -> None:
    """The statistics know nothing of them, as they know nothing of what a store that was away has left for later."""
    taking = repository.Taking(datetime.now(UTC), _BATCH, _HOUR, 24 * _HOUR)
    async with database.transaction() as conn:
        await conn.execute("ANALYZE file_removals")
        await conn.execute(
            "INSERT INTO file_removals (object_key, provider, attempts, due_at) "
            "SELECT 'org-many/00/' || n, 'local', $1, now() - n * interval '1 s' FROM generate_series(1, 50000) AS n",
            attempts,
        )
        before = await conn.fetchval(_READ_OF_REMOVALS)
        if attempts:
            taken = await repository.take_removals(conn, taking, [], None)
        else:
            taken = await repository.take_new_removals(conn, taking, [], "")
        assert len(taken) == _BATCH
        assert await conn.fetchval(_READ_OF_REMOVALS) - before <= 3 * _BATCH


@pytest.mark.parametrize(
    ("statement", "tables"),
    [
        (statements.KNOWN_OBJECTS, ("files", "file_uploads", "file_removals")),
        (statements.CLAIMED_WRITES, ("file_uploads", "file_removals")),
    ],
)
async def test_objects_are_looked_up_by_their_keys(
    large: _Large, conn: asyncpg.Connection, statement: str, tables: tuple[str, ...]
) -> None:
    keys = [*large.keys[10:], *(f"nobody's/{n}" for n in range(10))]
    reads = await reads_of(conn, statement, keys)
    assert sum(reads.rows[table] for table in tables) == (len(keys) - 10 if "files" in tables else 0)


async def test_counting_reads_what_is_counted(conn: asyncpg.Connection) -> None:
    reads = await reads_of(conn, statements.COUNT_EXPIRED_FILES)
    assert reads.rows["files"] == _FILES // 50
    reads = await reads_of(conn, statements.COUNT_EXPIRED_UPLOADS, _HOUR)
    assert reads.rows["file_uploads"] == _UPLOADS // 10
    reads = await reads_of(conn, statements.COUNT_REMOVALS)
    assert reads.rows["file_removals"] == _FILES // 10
    reads = await reads_of(conn, statements.COUNT_DOOMED_OBJECTS, _HOUR, ["s3"], [""], [""])
    assert reads.rows["files"] == _FILES // 50
    assert reads.rows["file_uploads"] == _UPLOADS // 10
    assert reads.rows["file_removals"] == _FILES // 10
    waiting = await conn.fetchrow(statements.COUNT_WAITING_REMOVALS)
    assert waiting is not None
    assert waiting["count"] == _FILES - _FILES // 10


async def test_a_sweep_of_jobs_reads_the_files_of_those_it_removes(conn: asyncpg.Connection) -> None:
    period = timedelta(days=1)
    await conn.execute("INSERT INTO retention_sweeps (age) VALUES ($1)", period)
    reads = await reads_of(
        conn,
        retention_statements.SWEEP,
        [period],
        [],
        [],
        [],
        [],
        period,
        period,
        period,
        200,
        period,
        period,
        0.1,
    )
    files = await conn.fetchval("SELECT count(*) FROM files WHERE expires_at = now()")
    assert files > 0
    assert files <= reads.rows["files"] <= 2 * files + 200
