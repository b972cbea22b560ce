"""Objects that become files: announced before they are written, and taken back when nothing comes of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from millrace_database import Database, file_uploads_repository, files_repository, is_unavailable
from millrace_database.file_uploads_repository import NewUpload
from millrace_database.files_repository import ObjectPlace
from millrace_storage.file_errors import UploadGivenUp
from millrace_storage.object_store import Remains
from millrace_storage.object_stores import ObjectStores
from millrace_storage.store_problems import STORE_ERRORS

WRITING_TIME = timedelta(minutes=15)
"""An upload on which nothing is written for so long is given up."""

# The object is all that is left, and nobody but the clean-up needs to know of it.
_SOON_SECONDS = 2.0
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

    async def take_back(self, upload: NewUpload, remains: Remains, *, with_file: bool = False) -> None:
        """Let go of an object that is to be no file, after an error: the caller raises that, whatever happens here.

        What the store has of it is removed within 2 seconds, or left to the clean-up of the storage, as is what only
        perhaps `remains`: it may still be to come. The file may be there after all, when the answer of the database was lost;
        it goes too `with_file`.
        """
        with _left_when_the_database_is_away(upload.place):
            if not await self._disown(upload, with_file=with_file):
                return
            if remains is Remains.NOTHING:
                await self._drop_removal(upload.place)
            elif remains is Remains.OBJECT:
                await self.remove_soon(upload.place)

    async def give_back(self, upload: NewUpload, put_back: Callable[[], Awaitable[None]]) -> None:
        """Do the same with an object that came from elsewhere, once `put_back` has brought its content back there.

        If the store does not do that, object and row stay, set aside: whoever comes next goes on with them.
        """
        with _left_when_the_database_is_away(upload.place):
            async with self._database.connection() as connection:
                aside = await file_uploads_repository.set_aside(connection, upload)
                if not aside and await files_repository.is_file(connection, upload.place):
                    return
            if await _is_done(put_back) or not aside:
                await self.let_go(upload)

    async def let_go(self, upload: NewUpload) -> None:
        """Remove an object that is to be no file, and of which somebody else may have made one meanwhile."""
        if await self._disown(upload):
            await self.remove_soon(upload.place)

    async def _disown(self, upload: NewUpload, *, with_file: bool = False) -> bool:
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

    async def remove_soon(self, place: ObjectPlace) -> None:
        """Remove an object that `file_removals` lists; it stays listed there when the store has not done it within 2 seconds."""
        if await self.delete_soon(place):
            await self._drop_removal(place)

    async def delete_object(self, place: ObjectPlace) -> bool:
        """Delete an object. False: the store did not do it, and it is left to the clean-up."""
        try:
            await self._stores.of(place.provider, place.bucket).delete(place.object_key)
        except STORE_ERRORS as error:
            _tell_left(place, str(error))
            return False
        return True

    async def delete_soon(self, place: ObjectPlace) -> bool:
        """Do the same within 2 seconds."""
        try:
            async with asyncio.timeout(_SOON_SECONDS):
                return await self.delete_object(place)
        except TimeoutError:
            _tell_left(place, f"no answer within {_SOON_SECONDS:g} seconds")
            return False

    async def _drop_removal(self, place: ObjectPlace) -> None:
        async with self._database.connection() as connection:
            await files_repository.drop_removal(connection, place)

    def keep_alive(self, upload: NewUpload) -> "KeepAlive":
        """Return what is to be called now and then while the object is written."""
        return KeepAlive(self._database, upload)


def _tell_left(place: ObjectPlace, reason: str) -> None:
    _logger.warning(
        "an object could not be removed; it is left to the clean-up",
        extra={"object_key": place.object_key, "error": reason},
    )


@contextmanager
def _left_when_the_database_is_away(place: ObjectPlace) -> Iterator[None]:
    try:
        yield
    except Exception as problem:
        if not is_unavailable(problem):
            raise
        _logger.warning(
            "an object may be without a file; it is left to the clean-up",
            extra={"object_key": place.object_key, "error": str(problem)},
        )


async def _is_done(step: Callable[[], Awaitable[None]]) -> bool:
    """Return whether the store did it; who is cancelled does not wait for that longer than 2 seconds."""
    task = asyncio.current_task()
    is_cancelled = task is not None and task.cancelling() > 0
    limit = asyncio.timeout(_SOON_SECONDS if is_cancelled else None)
    try:
        async with limit:
            await step()
    except STORE_ERRORS:
        return False
    except TimeoutError:
        if not limit.expired():
            raise
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
