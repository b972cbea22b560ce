"""Which files are listed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace_database import Database
from millrace_database.ids import new_id
from millrace_storage import FileFilters, FileStore
from support.local_files import local_files
from support.object_stores import chunks_of

_JOB = new_id()
_AN_HOUR = timedelta(hours=1)


@pytest.fixture
async def files(database: Database, tmp_path: Path) -> FileStore:
    """Files that differ in everything that can be asked for, named after it."""
    files = local_files(database, tmp_path)

    async def save(name: str, **given: Any) -> None:
        defaults = {"org_id": "acme", "content_type": "text/csv", "created_by": "ada"}
        file = await files.save(name=name, chunks=chunks_of(b"1,2\n"), **{**defaults, **given})
        if name.startswith("deleted"):
            await files.delete("acme", file.file_id)
        if name == "expired":
            async with database.connection() as connection:
                await connection.execute(
                    "UPDATE files SET expires_at = now() WHERE file_id = $1", file.file_id
                )

    await save("plain.csv")
    await save("of job", job_id=_JOB, state="with_job", created_by="bob")
    await save("kept of job", job_id=_JOB)
    await save("temporary", state="temporary")
    await save("json", content_type="application/json")
    await save("json of bob", content_type="application/json", created_by="bob")
    await save("50%_off\\ a")
    await save("50 percent off")
    await save("deleted")
    await save("deleted of bob", created_by="bob", content_type="application/json")
    await save("expired", state="temporary")
    await save("other", org_id="other")
    await save("mixed", content_type="Text/HTML; charset=UTF-8")
    await save("bare", content_type="text/html")
    async with database.connection() as connection:
        await connection.execute("UPDATE files SET content_type = 'TEXT/HTML ;level=1' WHERE name = 'bare'")
    return files


_KEPT = {
    "plain.csv",
    "of job",
    "kept of job",
    "temporary",
    "json",
    "json of bob",
    "50%_off\\ a",
    "50 percent off",
    "mixed",
    "bare",
}
_DELETED = {"deleted", "deleted of bob"}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, _KEPT),
        ({"states": ["temporary"]}, {"temporary"}),
        ({"states": ["with_job"]}, {"of job"}),
        ({"states": ["temporary", "with_job"]}, {"temporary", "of job"}),
        ({"states": ["persistent"]}, _KEPT - {"temporary", "of job"}),
        ({"states": ["deleted"]}, _DELETED),
        ({"states": ["deleted", "temporary"]}, _DELETED | {"temporary"}),
        ({"states": ["deleted", "temporary", "with_job", "persistent"]}, _DELETED | _KEPT),
        ({"name_prefix": "kept"}, {"kept of job"}),
        ({"name_prefix": "50%"}, {"50%_off\\ a"}),
        ({"name_prefix": "50"}, {"50%_off\\ a", "50 percent off"}),
        ({"name_prefix": "50%_off\\"}, {"50%_off\\ a"}),
        ({"name_prefix": "_"}, set()),
        ({"name_prefix": "%"}, set()),
        ({"name_prefix": "de"}, set()),
        ({"name_prefix": "de", "states": ["deleted"]}, _DELETED),
        ({"created_by": "bob"}, {"of job", "json of bob"}),
        ({"created_by": "bob", "states": ["deleted", "with_job"]}, {"of job", "deleted of bob"}),
        ({"created_by": "eve"}, set()),
        ({"job_id": _JOB}, {"of job", "kept of job"}),
        ({"job_id": _JOB, "states": ["persistent"]}, {"kept of job"}),
        ({"job_id": _JOB, "created_by": "bob", "content_types": ["text/csv"]}, {"of job"}),
        ({"job_id": new_id()}, set()),
        ({"content_types": ["application/json"]}, {"json", "json of bob"}),
        ({"content_types": ["application/json", "text/csv", "application/json"]}, _KEPT - {"mixed", "bare"}),
        ({"content_types": ["text/html"]}, {"mixed", "bare"}),
        ({"content_types": ["text/html; charset=UTF-8"]}, {"mixed"}),
        ({"content_types": ["text/html; charset=UTF-8", "text/html"]}, {"mixed", "bare"}),
        (
            {"content_types": ["text/html; charset=UTF-8", "application/json"]},
            {"mixed", "json", "json of bob"},
        ),
        ({"content_types": ["text/html; charset=UTF-8", "image/png"], "job_id": _JOB}, set()),
        ({"content_types": ["text/html; x=y", "text/csv"], "job_id": _JOB}, {"of job", "kept of job"}),
        ({"content_types": ["text/htm"]}, set()),
        ({"content_types": ["text/html"], "job_id": _JOB}, set()),
        ({"content_types": ["application/json"], "created_by": "bob"}, {"json of bob"}),
        ({"content_types": ["application/json"], "states": ["deleted"]}, {"deleted of bob"}),
        ({"content_types": ["application/json"], "name_prefix": "json of"}, {"json of bob"}),
        ({"content_types": ["image/png"]}, set()),
        ({"created_after": -_AN_HOUR, "created_before": _AN_HOUR}, _KEPT),
        ({"created_after": _AN_HOUR}, set()),
        ({"created_before": -_AN_HOUR}, set()),
        ({"created_after": datetime.min.replace(tzinfo=UTC)}, _KEPT),
        (
            {"created_before": datetime.max.replace(tzinfo=UTC), "created_by": "bob"},
            {"of job", "json of bob"},
        ),
    ],
)
async def test_the_files_that_match_are_listed_newest_first_in_pages(
    files: FileStore, filters: dict[str, Any], names: set[str]
) -> None:
    given: dict[str, Any] = {
        name: datetime.now(UTC) + value if isinstance(value, timedelta) else value
        for name, value in filters.items()
    }
    asked = FileFilters(**given)
    found = await files.list("acme", asked, None, 100)
    assert {file.name for file in found} == names
    ids = [file.file_id for file in found]
    assert ids == sorted(ids, reverse=True)

    paged, after = [], None
    while page := await files.list("acme", asked, after, 3):
        paged += page
        after = page[-1].file_id
    assert paged == found
