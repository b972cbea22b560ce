"""Objects that become files: announced before they are written, and taken back when nothing comes of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from millrace_database import Database, file_uploads_repository, files_repository, is_unavailable
from millrace_database.file_uploads_repository import NewUpload
from millrace_database.files_repository import ObjectPlace
from millrace_storage.file_errors import UploadGivenUp
from millrace_storage.object_store import StoreUnavailableError
from millrace_storage.object_stores import ObjectStores
from millrace_storage.store_problems import STORE_ERRORS

WRITING_TIME = timedelta(minutes=15)
"""An upload on which nothing is written for so long is given up."""

_PUT_OFF_EVERY_SECONDS = 300.0
_PUT_OFF_AGAIN_SECONDS = 10.0

_logger = logging.getLogger(__name__)


class ObjectWriting:
    """The rows of `file_uploads` and `file_removals` that tell of objects which are no files."""

    def __init__(self, database: Database, stores: ObjectStores) -> None:
        self._database = database
        self._stores = stores

    async def announce(self, upload: NewUpload) -> bool:
        """Say that an object is going to be written. False: somebody else is at an upload of this id."""
        async with self._database.connection() as connection:
            return await file_uploads_repository.add_upload(connection, upload, WRITING_TIME) is not None

    async def take_back(
        self,
        upload: NewUpload,
        error: BaseException,
        *,
        with_file: bool = False,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Remove an object that is to be no file, after an error: the caller raises that, whatever happens here.

        The file may be there after all, when the answer of the database was lost; it goes too `with_file`. `first` may save
        the content before it is removed; if the store does not do it, see `set_aside`. What cannot be removed now is left to
        the clean-up of the storage; a store that was away a moment ago is asked only for what `first` saves.
        """
        try:
            if not await self._disown(upload, with_file=with_file):
                return
            if first is not None and not await _is_done(first):
                await self.set_aside(upload)
            elif first is not None or not isinstance(error, StoreUnavailableError):
                await self.remove(upload.place)
        except Exception as problem:
            if not is_unavailable(problem):
                raise
            _logger.warning(
                "an object may be without a file; it is left to the clean-up",
                extra={"object_key": upload.place.object_key, "error": str(problem)},
            )

    async def set_aside(self, upload: NewUpload) -> None:
        """Make an object that is to be removed an upload that has expired, for whoever comes next to go on with."""
        async with self._database.transaction() as connection:
            if await file_uploads_repository.add_upload(connection, upload, timedelta(0)) is not None:
                await files_repository.drop_removal(connection, upload.place)

    async def _disown(self, upload: NewUpload, *, with_file: bool) -> bool:
        """See to it that an object is known as one to be removed. False: it is the content of a file, or has been removed."""
        async with self._database.transaction() as connection:
            # Waits for who may be about to make a file of it; each statement then sees what came of that.
            if await file_uploads_repository.give_upload_up(connection, upload):
                return True
            if with_file and await files_repository.remove_file(connection, upload.org_id, upload.upload_id):
                return True
            if await files_repository.is_file(connection, upload.place):
                return False
            # It was given up by others, and may have been written after they removed it.
            await files_repository.add_removal(connection, upload.place)
            return True

    async def remove(self, place: ObjectPlace) -> None:
        """Remove an object that `file_removals` lists; it stays listed there when the store does not do it."""
        if await self.delete_object(place):
            async with self._database.connection() as connection:
                await files_repository.drop_removal(connection, place)

    async def delete_object(self, place: ObjectPlace) -> bool:
        """Delete an object. False: the store did not do it, and it is left to the clean-up."""
        try:
            await self._stores.of(place.provider, place.bucket).delete(place.object_key)
        except STORE_ERRORS as error:
            _logger.warning(
                "an object could not be removed; it is left to the clean-up",
                extra={"object_key": place.object_key, "error": str(error)},
            )
            return False
        return True

    def keep_alive(self, upload: NewUpload) -> "KeepAlive":
        """Return what is to be called now and then while the object is written."""
        return KeepAlive(self._database, upload)


async def _is_done(step: Callable[[], Awaitable[None]]) -> bool:
    """Return whether the store did it."""
    try:
        await step()
    except STORE_ERRORS:
        return False
    return True


class KeepAlive:
    """Keeps an upload from being given up as long as it is called."""

    def __init__(self, database: Database, upload: NewUpload) -> None:
        self._database = database
        self._upload = upload
        self._due = self._now() + _PUT_OFF_EVERY_SECONDS

    async def __call__(self) -> None:
        """Say that the upload goes on, every 5 minutes. Raises UploadGivenUp when it was given up meanwhile."""
        if self._now() < self._due:
            return
        try:
            async with self._database.connection() as connection:
                lives = await file_uploads_repository.put_off_expiry(connection, self._upload, WRITING_TIME)
        except Exception as error:
            if not is_unavailable(error):
                raise
            # There is time; and if it lasts, the end of the upload tells.
            self._due = self._now() + _PUT_OFF_AGAIN_SECONDS
            return
        if not lives:
            raise UploadGivenUp("the upload made no progress for too long")
        self._due = self._now() + _PUT_OFF_EVERY_SECONDS

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
