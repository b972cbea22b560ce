"""Files, uploads and clean-ups whose processes are killed anywhere: nothing that was acknowledged is lost, nothing stays for ever.

`MILLRACE_TEST_FILE_KILLS=200` says how many kills there are.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from millrace_client import Millrace, MillraceError
from millrace_database.database import Database
from millrace_runtime.settings import Settings
from millrace_storage.object_stores import open_object_stores
from millrace_storage.storage_cleanup import clean_up_storage
from support.doomed_files import APPLICATION_NAME, ERRORS
from support.object_stores import KINDS
from support.polling import eventually
from support.processes import ServiceProcess, free_port, stack
from support.stored_files import AT_ONCE, StoredFiles

_VARIABLE = "MILLRACE_TEST_FILE_KILLS"
_KILLS = {"local": 30, "s3": 9}
_SECONDS = 180 + 5 * int(os.environ.get(_VARIABLE, "0"))
_TESTS = Path(__file__).parent.parent
_LEASH = _TESTS / "support" / "leash.py"
_ROLES = ("files", "files", "clean-up")
_MOST_MOMENTS = 80
_BUCKET = "millrace-tests"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "millrace",
    "AWS_SECRET_ACCESS_KEY": "any-secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class _Doomed:
    """Processes that work on files until they are killed."""

    def __init__(self, forker: asyncio.subprocess.Process, log: Path, chance: random.Random) -> None:
        self._forker = forker
        self._log = log
        self._chance = chance
        self._pids: list[int] = []

    async def start(self) -> None:
        """Start one of each role; half of them end by themselves at some call."""
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        for role in _ROLES:
            at = self._chance.choice((0, self._chance.randint(1, _MOST_MOMENTS)))
            self._forker.stdin.write(f"{role} {at} {self._chance.randrange(2**32)}\n".encode())
            self._pids.append(int(await self._forker.stdout.readline()))
        await eventually(self._have_begun)

    async def _have_begun(self) -> bool:
        log = self._log.read_text().splitlines()
        return all(f"begun {pid}" in log for pid in self._pids)

    async def kill(self) -> int:
        """Kill those that still live, at different times; return how many died."""
        for pid in self._pids:
            await asyncio.sleep(self._chance.uniform(0, 0.25))
            if _is_running(pid):
                os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            await eventually(partial(_has_ended, pid))
        died = len(self._pids)
        self._pids.clear()
        return died


async def _has_ended(pid: int) -> bool:
    return not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class _Uploading:
    """A caller of the service, which is killed now and then; it pauses when it is told."""

    def __init__(self, client: Millrace, kept: Path) -> None:
        self._client = client
        self.kept = kept
        self.pause = asyncio.Lock()

    async def run(self) -> None:
        while True:
            async with self.pause:
                try:
                    file = await self._client.files.upload(b"y" * 200_000, "b.txt", timeout=5)
                except MillraceError:
                    continue
            with self.kept.open("a") as log:
                log.write(f"kept {file.file_id.removeprefix('file_')}\n")
            await asyncio.sleep(0)


@asynccontextmanager
async def _storage(kind: str, folder: Path) -> AsyncIterator[dict[str, str]]:
    """Gives the settings of a store that outlives everything; that of S3 has a process of its own."""
    if kind == "local":
        # Nothing is sent there.
        yield {"MILLRACE_FILES_URL": "http://127.0.0.1:9"}
        return
    port = free_port()
    command = (
        sys.executable,
        "-I",
        "-S",
        _LEASH,
        str(os.getpid()),
        Path(sys.executable).with_name("moto_server"),
    )
    with (folder / "s3.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            *command, "-H", "127.0.0.1", "-p", str(port), stdout=log, stderr=log
        )
    endpoint = f"http://127.0.0.1:{port}"

    async def bucket_made() -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.put(f"{endpoint}/{_BUCKET}") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    try:
        await eventually(bucket_made)
        yield {
            "MILLRACE_STORAGE_PROVIDER": "s3",
            "MILLRACE_S3_BUCKET": _BUCKET,
            "MILLRACE_S3_ENDPOINT": endpoint,
            "MILLRACE_S3_PREFIX": "millrace/",
            **_CREDENTIALS,
        }
    finally:
        server.kill()
        await server.wait()


@asynccontextmanager
async def _forker(settings: dict[str, str], kept: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, **settings, "PYTHONPATH": str(_TESTS), "KEPT_LOG": str(kept)}
    script = _TESTS / "support" / "doomed_files.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        _LEASH,
        str(os.getpid()),
        sys.executable,
        script,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def _assert_all_is_well(files: StoredFiles, kept_log: Path) -> None:
    """What the dead were about to do is over; the next clean-up leaves everything as it is to be."""

    async def nobody_is_at_work() -> bool:
        async with files.database.connection() as conn:
            count = await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", APPLICATION_NAME
            )
        return not count

    await eventually(nobody_is_at_work)
    async with files.database.connection() as conn:
        await conn.execute("UPDATE file_uploads SET expires_at = now() WHERE kind = 'stream'")
        await conn.execute("UPDATE file_removals SET due_at = now()")

    async def cleaned_up() -> bool:
        report = await clean_up_storage(files.database, files.stores, times=AT_ONCE)
        assert (report.problems, report.left_alone) == ([], [])
        # A server may still be at work on the last request of one that is dead.
        return not await files.strangers()

    await eventually(cleaned_up)
    await files.assert_consistent()
    async with files.database.connection() as conn:
        rows = await conn.fetch("SELECT file_id FROM files WHERE deleted_at IS NULL")
    assert _kept(kept_log) - {row["file_id"].hex for row in rows} == set()


def _kept(log: Path) -> set[str]:
    kept: set[str] = set()
    for line in log.read_text().splitlines():
        what, file_id = line.split()
        if what != "begun":
            (kept.add if what == "kept" else kept.discard)(file_id)
    return kept


async def _kill_again_and_again(
    service: ServiceProcess, doomed: _Doomed, uploading: _Uploading, files: StoredFiles, kills: int
) -> None:
    died = 0
    rounds = 0
    while died < kills:
        await doomed.start()
        rounds += 1
        if rounds % 4 == 0:
            await asyncio.sleep(0.1)
            await service.kill()
            died += 1
        died += await doomed.kill()
        if not service.running:
            await service.start()
        async with uploading.pause:
            await _assert_all_is_well(files, uploading.kept)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(_SECONDS)
async def test_files_survive_kills(
    kind: str,
    database: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kills = int(os.environ.get(_VARIABLE, _KILLS[kind]))
    kept = tmp_path / "kept"
    kept.touch()
    for name, value in _CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as closing:
        settings = await closing.enter_async_context(_storage(kind, tmp_path))
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        services = await closing.enter_async_context(
            stack(database_url, tmp_path, names=("jobs",), settings=settings)
        )
        settings |= {"MILLRACE_DATABASE_URL": database_url, "MILLRACE_DATA_DIR": str(tmp_path / "data")}
        stores = await closing.enter_async_context(open_object_stores(Settings(data_dir=tmp_path / "data")))
        forker = await closing.enter_async_context(_forker(settings, kept))
        client = await closing.enter_async_context(Millrace(services.jobs.address, org_id="acme"))
        uploading = _Uploading(client, kept)
        task = asyncio.create_task(uploading.run())
        try:
            doomed = _Doomed(forker, kept, random.Random(11))  # noqa: S311 - no secret
            files = StoredFiles(database, stores.default, stores.prefix)
            await _kill_again_and_again(services.jobs, doomed, uploading, files, kills)
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert len(_kept(kept)) > kills
    errors = kept.with_suffix(ERRORS)
    assert not errors.exists(), errors.read_text()
