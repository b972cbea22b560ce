"""Expired files removed by `millrace clean-up` beside as many that stay, next to one DELETE and an unlink of each file."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

from bench import usage
from bench.line import Line, at_most, ratio_at_least
from bench.rounds import Bench
from bench.samples import ORG
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_storage.file_keys import file_key
from support.processes import MILLRACE

_CONTENT = b"x" * 1_000
_SAMPLE_SECONDS = 0.02
_COLUMNS = (
    *("file_id", "org_id", "name", "content_type", "size_bytes", "sha256", "provider", "object_key"),
    *("state", "expires_at"),
)
_REMOVE = "DELETE FROM files WHERE expires_at <= now() RETURNING object_key"


async def measure(bench: Bench) -> list[Line]:
    number = bench.scale.expired_files
    with tempfile.TemporaryDirectory(prefix="millrace-bench-files-") as folder:
        async with bench.surroundings.database() as database:
            taken = await bench.rounds(
                {
                    "bare removal": partial(_bare, database, Path(folder), number),
                    "clean-up": partial(_cleaned_up, database, Path(folder), number),
                }
            )
    bare = [rate for (rate,) in taken["bare removal"]]
    rates, peaks = zip(*taken["clean-up"], strict=True)
    return [
        Line("one DELETE and an unlink of each file, bare", "files/s", bare),
        Line("clean-up", "files/s", rates, "bare removal", bare, ratio_at_least(0.05)),
        Line(f"RSS of a clean-up of {number:,} files at most", "MB", peaks, goal=at_most(150)),
    ]


async def _bare(database: Database, data: Path, number: int) -> Sequence[float]:
    await _fill(database, data, number)
    started_at = time.perf_counter()
    async with database.connection() as connection:
        keys = [row["object_key"] for row in await connection.fetch(_REMOVE, timeout=600)]
    await asyncio.to_thread(_unlink, [data / "files" / key for key in keys])
    assert len(keys) == number
    return [number / (time.perf_counter() - started_at)]


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink()


async def _cleaned_up(database: Database, data: Path, number: int) -> Sequence[float]:
    """The files that are removed in a second, and the most memory that this took."""
    await _fill(database, data, number)
    environment = {**os.environ, "MILLRACE_DATABASE_URL": database.url, "MILLRACE_DATA_DIR": str(data)}
    started_at = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        MILLRACE, "clean-up", "--json", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    peak = 0.0
    ended = asyncio.create_task(process.wait())
    while not ended.done():
        peak = max(peak, usage.megabytes_of(process.pid))
        await asyncio.wait([ended], timeout=_SAMPLE_SECONDS)
    seconds = time.perf_counter() - started_at
    assert ended.result() == 0
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM files") == number
    assert await asyncio.to_thread(_count, data / "files") == number
    return [number / seconds, peak]


async def _fill(database: Database, data: Path, number: int) -> None:
    """Let there be so many files that have expired, and so many that stay, and no others."""
    expired = [new_id() for _ in range(number)]
    kept = [new_id() for _ in range(number)]
    async with database.connection() as connection:
        await connection.execute("TRUNCATE files, file_uploads, file_removals, file_usage")
        await connection.copy_records_to_table(
            "files", records=_rows(expired, kept), columns=_COLUMNS, timeout=600
        )
        await connection.execute("VACUUM ANALYZE files", timeout=600)
    await asyncio.to_thread(_write, data / "files", [*expired, *kept])


def _rows(expired: Sequence[UUID], kept: Sequence[UUID]) -> Iterator[Sequence[object]]:
    before = datetime.now(UTC) - timedelta(hours=1)
    for ids, state, expires_at in ((expired, "temporary", before), (kept, "persistent", None)):
        for id_ in ids:
            what = (id_, ORG, "bench.bin", "application/octet-stream", len(_CONTENT), "0" * 64)
            yield (*what, "local", file_key("", ORG, id_), state, expires_at)


def _write(root: Path, ids: Sequence[UUID]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for id_ in ids:
        path = root / file_key("", ORG, id_)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_CONTENT)


def _count(root: Path) -> int:
    return sum(1 for path in root.glob("org-*/*/*"))
