"""What is left when a call is cancelled, or its process killed, at any of its steps."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from millrace_database import Database
from millrace_storage import FileStore
from millrace_storage.storage_cleanup import clean_up_storage
from support.direct_uploads import CONTENT, initiate, send
from support.local_files import local_files
from support.object_stores import chunks_of
from support.stored_files import AT_ONCE, StoredFiles

_STORE_METHODS = ("put", "get", "head", "move", "delete", "presign_put")


class KilledError(BaseException):
    """The process is no more: from then on no step does anything."""


@dataclass
class Interruption:
    """Counts the steps of a call, each use of the database and of the store, and interrupts it at one of them."""

    at: int
    how: str
    steps: int = 0

    @property
    def is_killed(self) -> bool:
        return self.how.startswith("killed") and self.steps > self.at

    def begin(self) -> bool:
        """Count a step, and tell whether the interruption comes behind it. It comes before it by an exception."""
        if self.is_killed:
            raise KilledError
        self.steps += 1
        if self.steps != self.at:
            return False
        if self.how.endswith("after"):
            return True
        self.interrupt()
        return False

    def interrupt(self) -> None:
        if self.how.startswith("killed"):
            self.steps += 1
            raise KilledError
        raise asyncio.CancelledError

    def during(self, done: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(done)
        async def step(*arguments: Any, **named: Any) -> Any:
            is_interrupted = self.begin()
            result = await done(*arguments, **named)
            if is_interrupted:
                self.interrupt()
            return result

        return step


class InterruptedDatabase:
    """A database whose uses are steps, and each statement in a transaction too."""

    def __init__(self, database: Database, interruption: Interruption) -> None:
        self._database = database
        self._interruption = interruption

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        is_interrupted = self._interruption.begin()
        async with self._database.connection() as connection:
            yield connection
        if is_interrupted:
            self._interruption.interrupt()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        is_interrupted = self._interruption.begin()
        async with self._database.transaction() as connection:
            yield connection
            # Before the transaction is committed.
            if self._interruption.begin():
                self._interruption.interrupt()
        if is_interrupted:
            self._interruption.interrupt()


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    return local_files(database, tmp_path)


@pytest.fixture
def inside(files: FileStore, database: Database) -> StoredFiles:
    return StoredFiles(database, files.stores.default)


def _interrupted(
    files: FileStore, database: Database, interruption: Interruption, patches: pytest.MonkeyPatch
) -> FileStore:
    store = files.stores.default
    for name in _STORE_METHODS:
        patches.setattr(store, name, interruption.during(getattr(store, name)))
    stand_in: Any = InterruptedDatabase(database, interruption)
    return FileStore(stand_in, files.stores)


async def _save(files: FileStore, _: Any) -> object:
    return await files.save(
        org_id="acme", name="a", content_type="text/csv", created_by="", chunks=chunks_of(CONTENT, CONTENT)
    )


async def _confirm(files: FileStore, upload_id: Any) -> object:
    return await files.confirm_upload("acme", upload_id)


async def _cancel(files: FileStore, upload_id: Any) -> None:
    await files.cancel_upload("acme", upload_id)


async def _initiate(files: FileStore, _: Any) -> object:
    return await initiate(files)


async def _remove(files: FileStore, file_id: Any) -> object:
    return await files.delete("acme", file_id, permanently=True)


async def _undelete(files: FileStore, file_id: Any) -> object:
    return await files.undelete("acme", file_id)


_CALLS = {
    "save": _save,
    "confirm": _confirm,
    "cancel": _cancel,
    "initiate": _initiate,
    "remove": _remove,
    "undelete": _undelete,
}


async def _prepare(files: FileStore, database: Database, call: str) -> Any:
    """What a call is about: an upload that has been sent, or a file."""
    if call in ("confirm", "cancel"):
        upload = await initiate(files)
        await send(files, database, upload)
        return upload.upload_id
    if call in ("remove", "undelete"):
        file = await files.save(
            org_id="acme", name="b", content_type="", created_by="", chunks=chunks_of(b"1")
        )
        if call == "undelete":
            await files.delete("acme", file.file_id)
        return file.file_id
    return None


@pytest.mark.parametrize("how", ["cancelled before", "cancelled after", "killed before", "killed after"])
@pytest.mark.parametrize("call", _CALLS)
async def test_every_object_is_known_by_a_row_and_every_file_has_its_object(
    files: FileStore, inside: StoredFiles, database: Database, call: str, how: str
) -> None:
    at = 0
    was_interrupted = True
    while was_interrupted:
        at += 1
        about = await _prepare(files, database, call)
        interruption = Interruption(at, how)
        before = (await files.usage("acme")).files
        with pytest.MonkeyPatch.context() as patches:
            interrupted = _interrupted(files, database, interruption, patches)
            try:
                await _CALLS[call](interrupted, about)
                was_interrupted = False
            except (asyncio.CancelledError, KilledError):
                pass

        await _assert_known(inside)
        if call == "save" and was_interrupted and how.startswith("cancelled"):
            assert (await files.usage("acme")).files == before
            assert await inside.rows("file_uploads") == set()
        if call == "confirm":
            await _assert_repeatable(files, database, about, how)
        if call == "cancel" and how.startswith("cancelled"):
            await files.cancel_upload("acme", about)
    assert at > 1
    await _expire(database)
    await clean_up_storage(database, files.stores, times=AT_ONCE)
    assert await inside.keys() == await inside.rows("files")
    await inside.assert_consistent()


async def _assert_known(inside: StoredFiles) -> None:
    known = await inside.rows("file_removals") | await inside.rows("file_uploads")
    objects = await inside.keys()
    files = await inside.rows("files")
    assert objects <= known | files
    assert files <= objects


async def _assert_repeatable(files: FileStore, database: Database, upload_id: Any, how: str) -> None:
    """A confirmation that was cancelled can be repeated at once; one that was killed, once that shows."""
    if how.startswith("killed"):
        await _expire(database, "kind = 'stream'")
    file = await files.confirm_upload("acme", upload_id)
    _, chunks = await files.open("acme", file.file_id)
    assert b"".join([chunk async for chunk in chunks]) == CONTENT


async def _expire(database: Database, which: str = "true") -> None:
    async with database.connection() as connection:
        await connection.execute(f"UPDATE file_uploads SET expires_at = now() WHERE {which}")  # noqa: S608
        await connection.execute("UPDATE file_removals SET due_at = now()")
