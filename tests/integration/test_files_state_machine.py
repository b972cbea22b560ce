"""Files, uploads and the clean-up in any order, on the database and on a model alike."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from millrace_database import Database
from millrace_storage import (
    FileDeleted,
    FileFilters,
    FileMissing,
    FileStore,
    LimitExceeded,
    NothingUploaded,
    UploadConfirmed,
    UploadMissing,
)
from millrace_storage.storage_cleanup import clean_up_storage
from support.direct_uploads import initiate, staging_key
from support.local_files import local_files
from support.object_stores import chunks_of, put
from support.stored_files import AT_ONCE, StoredFiles

_T = TypeVar("_T")

_SOME = st.integers(0, 30)
_STATES = st.sampled_from(["temporary", "persistent", "with_job"])
_SIZES = st.sampled_from([0, 1, 10, 30])
_MAX_TOTAL = 80
_MAX_FILES = 2
_REFUSALS = (
    FileDeleted,
    FileMissing,
    LimitExceeded,
    NothingUploaded,
    UploadConfirmed,
    UploadMissing,
)


@dataclass
class _File:
    size: int
    state: str
    is_deleted: bool = False
    has_expired: bool = False

    @property
    def is_seen(self) -> bool:
        return not self.has_expired

    @property
    def can_expire(self) -> bool:
        return self.is_deleted or self.state == "temporary"


@dataclass
class _Upload:
    size: int
    is_sent: bool = False
    is_confirmed: bool = False
    is_open: bool = True


def _has_files(commands: "_Commands") -> bool:
    return bool(commands.known)


def _has_uploads(commands: "_Commands") -> bool:
    return bool(commands.uploads)


class _Commands(RuleBasedStateMachine):
    """Numbers pick among all files and uploads that ever were."""

    runner: asyncio.Runner
    database: Database
    files: FileStore
    inside: StoredFiles
    job_id: UUID

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[UUID, _File] = {}
        self.uploads: dict[UUID, _Upload] = {}
        self.staging: dict[UUID, str] = {}

    @initialize(state=_STATES)
    def start_with_all_there_may_be(self, state: str) -> None:
        self.run(self._start_empty())
        self.save(30, "persistent")
        self.save(30, state)

    async def _start_empty(self) -> None:
        await self.execute("TRUNCATE files, file_uploads, file_removals, file_usage")
        for key in await self.inside.keys():
            await self.files.stores.default.delete(key)

    @rule(size=_SIZES, state=_STATES)
    def save(self, size: int, state: Any) -> None:
        saving = self.files.save(
            org_id="acme",
            name="a",
            content_type="",
            created_by="",
            chunks=chunks_of(b"x" * size),
            state=state,
            job_id=self.job_id,
        )
        if (file := self.outcome(saving, None if self.fits(size) else LimitExceeded)) is not None:
            self.known[file.file_id] = _File(size, state)

    @precondition(_has_files)
    @rule(which=_SOME)
    def persist(self, which: int) -> None:
        file_id, file = self.pick(which)
        refusal = FileMissing if not file.is_seen else FileDeleted if file.is_deleted else None
        if self.outcome(self.files.persist("acme", file_id), refusal):
            file.state = "persistent"

    @precondition(_has_files)
    @rule(which=_SOME)
    def delete(self, which: int) -> None:
        file_id, file = self.pick(which)
        if self.outcome(self.files.delete("acme", file_id), None if file.is_seen else FileMissing):
            file.is_deleted = True

    @precondition(_has_files)
    @rule(which=_SOME)
    def delete_for_good(self, which: int) -> None:
        file_id, file = self.pick(which)
        removing = self.files.delete("acme", file_id, permanently=True)
        self.outcome(removing, None if file.is_seen else FileMissing)
        self.known.pop(file_id, None)

    @precondition(_has_files)
    @rule(which=_SOME)
    def undelete(self, which: int) -> None:
        file_id, file = self.pick(which)
        refusal: type[Exception] | None = None
        if not file.is_seen:
            refusal = FileMissing
        elif file.is_deleted and not self.fits(file.size):
            refusal = LimitExceeded
        if self.outcome(self.files.undelete("acme", file_id), refusal):
            file.is_deleted = False

    @rule(size=_SIZES)
    def initiate(self, size: int) -> None:
        others = sum(upload.size for upload in self.uploads.values() if upload.is_open)
        refusal = None if self.fits(size + others) else LimitExceeded
        if (upload := self.outcome(initiate(self.files, b"x" * size), refusal)) is not None:
            self.uploads[upload.upload_id] = _Upload(size)
            self.staging[upload.upload_id] = self.run(staging_key(self.database, upload.upload_id))

    @precondition(_has_uploads)
    @rule(which=_SOME)
    def send(self, which: int) -> None:
        """Also when it is over: the URL is good for some time."""
        upload_id, upload = self.pick_upload(which)
        if key := self.staging.get(upload_id):
            self.run(put(self.files.stores.default, key, b"x" * upload.size))
            upload.is_sent = True

    @precondition(_has_uploads)
    @rule(which=_SOME)
    def confirm(self, which: int) -> None:
        upload_id, upload = self.pick_upload(which)
        refusal: type[Exception] | None = None
        if upload.is_confirmed:
            file = self.known.get(upload_id)
            refusal = None if file and file.is_seen else UploadMissing
        elif not upload.is_open:
            refusal = UploadMissing
        elif not upload.is_sent:
            refusal = NothingUploaded
        elif not self.fits(upload.size):
            refusal = LimitExceeded
        confirming = self.files.confirm_upload("acme", upload_id)
        if self.outcome(confirming, refusal) and not upload.is_confirmed:
            upload.is_confirmed, upload.is_open, upload.is_sent = True, False, False
            self.known[upload_id] = _File(upload.size, "persistent")

    @precondition(_has_uploads)
    @rule(which=_SOME)
    def cancel(self, which: int) -> None:
        upload_id, upload = self.pick_upload(which)
        self.outcome(
            self.files.cancel_upload("acme", upload_id), UploadConfirmed if upload.is_confirmed else None
        )
        upload.is_open = False

    @precondition(_has_files)
    @rule(which=_SOME)
    def expire_a_file(self, which: int) -> None:
        file_id, file = self.pick(which)
        if file.can_expire:
            self.run(self.execute("UPDATE files SET expires_at = now() WHERE file_id = $1", file_id))
            file.has_expired = True

    @rule()
    def expire_uploads_and_clean_up(self) -> None:
        """From then on no URL is good for anything."""
        self.run(self._expire_and_clean_up())
        self.uploads.clear()
        self.staging.clear()
        self.known = {file_id: file for file_id, file in self.known.items() if file.is_seen}

    async def _expire_and_clean_up(self) -> None:
        await self.execute("UPDATE file_uploads SET expires_at = now()")
        await self.execute("UPDATE file_removals SET due_at = now()")
        await clean_up_storage(self.database, self.files.stores, times=AT_ONCE)
        assert await self.inside.keys() == await self.inside.rows("files")

    @rule()
    def clean_up(self) -> None:
        self.run(clean_up_storage(self.database, self.files.stores))

    @invariant()
    def agrees(self) -> None:
        self.run(self._agrees())

    async def _agrees(self) -> None:
        expected = {
            file_id: (file.size, file.state, file.is_deleted)
            for file_id, file in self.known.items()
            if file.is_seen
        }
        states = ["temporary", "persistent", "with_job", "deleted"]
        listed = await self.files.list("acme", FileFilters(states=states), None, 1_000)
        found = {file.file_id: (file.size_bytes, file.state, file.deleted_at is not None) for file in listed}
        assert found == expected
        rows = await self.inside.rows("files")
        objects = await self.inside.keys()
        assert rows <= objects
        told = await self.inside.rows("file_uploads") | await self.inside.rows("file_removals")
        assert objects <= rows | told
        usage = await self.files.usage("acme")
        assert (usage.total_bytes, usage.files) == await self._counted()
        assert usage.total_bytes <= _MAX_TOTAL
        assert usage.files <= _MAX_FILES

    async def _counted(self) -> tuple[int, int]:
        """What there is that is not deleted, also of what has expired and is not cleaned up yet."""
        async with self.database.connection() as conn:
            row = await conn.fetchrow(
                "SELECT coalesce(sum(size_bytes), 0)::bigint, count(*) FROM files WHERE deleted_at IS NULL"
            )
        assert row is not None
        return row[0], row[1]

    def fits(self, more_bytes: int) -> bool:
        total, files = self.run(self._counted())
        return total + more_bytes <= _MAX_TOTAL and files + 1 <= _MAX_FILES

    def pick(self, which: int) -> tuple[UUID, _File]:
        return sorted(self.known.items(), key=lambda known: known[0])[which % len(self.known)]

    def pick_upload(self, which: int) -> tuple[UUID, _Upload]:
        return sorted(self.uploads.items(), key=lambda known: known[0])[which % len(self.uploads)]

    def outcome(self, call: Coroutine[Any, Any, _T], refusal: type[Exception] | None) -> _T | None:
        """What a call returns, after a look whether it is refused as it should be."""
        try:
            result = self.run(call)
        except _REFUSALS as error:
            assert type(error) is refusal, error  # noqa: PT017 - any other is an error too
            return None
        assert refusal is None
        return result

    async def execute(self, statement: str, *arguments: Any) -> None:
        async with self.database.connection() as conn:
            await conn.execute(statement, *arguments)

    @classmethod
    def run(cls, work: Coroutine[Any, Any, _T]) -> _T:
        return cls.runner.run(work)


def test_files_in_any_order(database_url: str, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        database = runner.run(Database.open(database_url, application_name="test"))
        try:
            files = local_files(
                database, tmp_path, files_max_total_bytes=_MAX_TOTAL, files_max_count=_MAX_FILES
            )
            inside = StoredFiles(database, files.stores.default)
            given = {
                "runner": runner,
                "database": database,
                "files": files,
                "inside": inside,
                "job_id": runner.run(inside.job()),
            }
            run_state_machine_as_test(
                type("_Bound", (_Commands,), given),
                settings=settings(
                    max_examples=60,
                    stateful_step_count=40,
                    deadline=None,
                    database=None,
                    derandomize=False,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink],
                ),
            )
        finally:
            runner.run(database.close())
