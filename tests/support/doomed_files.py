"""Work on files, and clean-ups, in processes that end with SIGKILL at a certain call: `python doomed_files.py`.

For each line "ROLE AT SEED" on standard input a process is forked, whose id is printed. It ends at the moment AT (see
`Breaker`; 0: only from outside) of what it does, which depends on SEED. What is acknowledged, and what is about to be
deleted, is told to the file that KEPT_LOG names, as "kept ID" and "gone ID"; "begun PID" stands before that.
"""

import asyncio
import os
import random
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from millrace_database.database import Database
from millrace_runtime.settings import read_settings
from millrace_storage.file_errors import ContentMissing, FileDeleted, FileMissing, UploadMissing
from millrace_storage.file_policy import FilePolicy
from millrace_storage.file_store import FileStore
from millrace_storage.object_stores import ObjectStores, open_object_stores
from millrace_storage.storage_cleanup import clean_up_storage
from support.breaking import Breaker, BreakingDatabase, BreakingStore
from support.object_stores import put
from support.stored_files import AT_ONCE, StoresOf

APPLICATION_NAME = "doomed"
ERRORS = ".errors"
"""What the name of the file ends with that tells of those that ended otherwise."""
_LONGEST_SECONDS = 30
_SOON = timedelta(milliseconds=150)
_LARGE_BYTES = 9 << 20
_GONE = (ContentMissing, FileDeleted, FileMissing, UploadMissing)


class _Kill(Breaker):
    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _FileWork:
    """Does with files what callers do, in any order, until the process ends."""

    def __init__(self, database: Database, stores: ObjectStores, seed: int, log: int) -> None:
        # What is temporary, or deleted, expires soon, while others still change it.
        self._files = FileStore(database, stores, FilePolicy(temporary=_SOON, deleted=_SOON))
        self._database = database
        self._stores = stores
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._log = log

    async def run(self) -> None:
        steps = (
            self._save,
            self._save_for_long,
            self._upload_directly,
            self._undelete,
            self._remove,
            self._cancel,
        )
        while True:
            try:
                await self._chance.choice(steps)()
            except _GONE:
                continue

    @property
    def _org(self) -> str:
        return f"org-{self._chance.randrange(3)}"

    def _tell(self, what: str, file_id: UUID) -> None:
        os.write(self._log, f"{what} {file_id.hex}\n".encode())

    def _content(self) -> bytes:
        large = self._chance.random() < 0.05
        return b"x" * (_LARGE_BYTES if large else self._chance.randrange(300_000))

    async def _saved(self, org: str, *, temporary: bool) -> UUID:
        file = await self._files.save(
            org_id=org,
            name="a.txt",
            content_type="text/plain",
            created_by="ann",
            chunks=_chunks(self._content()),
            state="temporary" if temporary else "persistent",
        )
        if not temporary:
            self._tell("kept", file.file_id)
        return file.file_id

    async def _save(self) -> None:
        await self._saved(self._org, temporary=self._chance.random() < 0.5)

    async def _save_for_long(self) -> None:
        org = self._org
        file_id = await self._saved(org, temporary=True)
        await asyncio.sleep(self._chance.uniform(0, 0.2))
        await self._files.persist(org, file_id)
        self._tell("kept", file_id)

    async def _undelete(self) -> None:
        org = self._org
        file_id = await self._saved(org, temporary=False)
        self._tell("gone", file_id)
        await self._files.delete(org, file_id)
        await asyncio.sleep(self._chance.uniform(0, 0.2))
        await self._files.undelete(org, file_id)
        self._tell("kept", file_id)

    async def _remove(self) -> None:
        org = self._org
        file_id = await self._saved(org, temporary=False)
        self._tell("gone", file_id)
        await self._files.delete(org, file_id, permanently=True)

    async def _upload_directly(self) -> None:
        org, content = self._org, self._content()
        upload_id = await self._initiated(org, content)
        file = await self._files.confirm_upload(org, upload_id)
        self._tell("kept", file.file_id)

    async def _cancel(self) -> None:
        org = self._org
        upload_id = await self._initiated(org, self._content())
        await self._files.cancel_upload(org, upload_id)

    async def _initiated(self, org: str, content: bytes) -> UUID:
        upload = await self._files.initiate_upload(
            org_id=org,
            name="a.txt",
            content_type="text/plain",
            size_bytes=len(content),
            sha256=None,
            created_by="ann",
            temporary=False,
            expires_in=timedelta(minutes=1),
        )
        async with self._database.connection() as connection:
            key = await connection.fetchval(
                "SELECT object_key FROM file_uploads WHERE upload_id = $1", upload.upload_id
            )
        await put(self._stores.default, key, content)
        return upload.upload_id


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


async def _work(role: str, breaker: Breaker, seed: int) -> None:
    settings = read_settings()
    assert settings.database_url is not None
    database = await Database.open(settings.database_url, application_name=APPLICATION_NAME)
    breaking = BreakingDatabase(database, breaker)
    async with open_object_stores(settings) as opened:
        stores = StoresOf(BreakingStore(opened.default, breaker), prefix=opened.prefix)
        log = os.open(os.environ["KEPT_LOG"], os.O_WRONLY | os.O_APPEND)
        os.write(log, f"begun {os.getpid()}\n".encode())
        if role == "files":
            await _FileWork(breaking, stores, seed, log).run()
        while True:
            await clean_up_storage(breaking, stores, times=AT_ONCE)


def main() -> None:
    # Nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        role, at, seed = line.split()
        if pid := os.fork():
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
            continue
        signal.alarm(_LONGEST_SECONDS)
        try:
            asyncio.run(_work(role, _Kill(int(at)), int(seed)))
        except BaseException:
            with Path(os.environ["KEPT_LOG"] + ERRORS).open("a") as log:
                traceback.print_exc(file=log)
            raise


if __name__ == "__main__":
    main()
