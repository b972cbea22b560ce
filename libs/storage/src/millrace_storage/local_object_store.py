"""Objects as files in a folder of this machine."""

import asyncio
import errno
import itertools
import math
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ParamSpec, TypeVar

from millrace_storage.local_incoming import (
    INCOMING_FOLDER,
    incoming_path,
    new_incoming_path,
    unfinished_write,
    unfinished_writes,
)
from millrace_storage.local_listing import local_objects, stored_object
from millrace_storage.local_presigning_key import local_presigning_key
from millrace_storage.local_tree import LocalTree
from millrace_storage.object_store import (
    ObjectMissingError,
    ObjectStore,
    PresignedRequest,
    Remains,
    StoredObject,
    StoreRefusedError,
    StoreUnavailableError,
    UnfinishedWrite,
    WriteRemovedError,
    WriteState,
    checked_key,
)
from millrace_storage.presigned_signature import PresignedGet, PresignedPut, RequestSigner, checked_type
from millrace_storage.uninterrupted import to_the_end

_P = ParamSpec("_P")
_T = TypeVar("_T")

_GIBIBYTE = 1 << 30
_CHUNK_BYTES = 256 * 1024
_LISTED_AT_ONCE = 1000
_DELETED_AT_ONCE = 100
# What does not pass by waiting.
_REFUSALS = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG,
})  # fmt: skip


class LocalObjectStore(ObjectStore):
    """Objects as files below a root folder, shared by any number of processes of one machine.

    An object is written beside its place, brought to the disk and renamed into place. Symbolic links below the
    root are never followed. Every step is a short visit of a thread that leaves nothing open, so that a task may
    be cancelled at any point.
    """

    provider = "local"
    bucket = ""
    max_presigned_bytes = 5 * _GIBIBYTE

    files_url: str | None
    """The URL that a `PresignedServer` of the folder has for clients; one that starts sets it when it is not set."""

    def __init__(self, root: Path, *, files_url: str | None = None) -> None:
        self.files_url = files_url
        self._tree = LocalTree(root, lasting=INCOMING_FOLDER)
        self._signer: RequestSigner | None = None

    @property
    def root(self) -> Path:
        """The folder that the objects are in. It is made by what is written first."""
        return self._tree.root

    def where(self, key: str) -> str:
        """Return the path of an object."""
        return str(self.root.absolute() / key)

    async def put(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        expected_bytes: int | None = None,  # noqa: ARG002 - nothing depends on it here
        state: WriteState | None = None,
    ) -> StoredObject:
        """Store an object, as `ObjectStore.put` says."""
        incoming = new_incoming_path(checked_key(key))
        state = state or WriteState()
        state.remains = Remains.PERHAPS
        try:
            # What is not there yet cannot be removed: when cancelled, not before this is done.
            await _whole_visit(self._begin, incoming)
            async for block in _blocks(chunks):
                await _visit(self._append, incoming, block)
            await _visit(self._sync, incoming)
        except BaseException:
            await _whole_visit(self._discard, incoming)
            state.remains = Remains.NOTHING
            raise
        return await self._publish_whole(incoming, key, state)

    async def create(self, key: str, content: bytes) -> bool:
        """Store a short object unless there is one, as `ObjectStore.create` says."""
        return await _whole_visit(self._create, checked_key(key), content)

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes of an object, as `ObjectStore.get` says."""
        found = await _visit(self._tree.stat, checked_key(key).split("/"))
        if found is None:
            raise ObjectMissingError(key)
        return self._read(key, found, start, found.st_size if end is None else min(end, found.st_size))

    async def head(self, key: str) -> StoredObject | None:
        """Return what is known of an object, or None when there is no such object."""
        found = await _visit(self._tree.stat, checked_key(key).split("/"))
        return None if found is None else stored_object(key, found)

    async def move(self, source: str, target: str) -> StoredObject:
        """Give an object another key, as `ObjectStore.move` says; there is no moment without either."""
        paths = checked_key(source).split("/"), checked_key(target).split("/")
        return stored_object(target, await _whole_visit(self._tree.rename, *paths))

    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is no such object."""
        await _visit(self._delete, checked_key(key))

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete objects, as `ObjectStore.delete_many` says."""
        # The disk flushes a folder each time that something of it is deleted.
        paths = sorted(checked_key(key).split("/") for key in keys)
        failed: dict[str, str] = {}
        for start in range(0, len(paths), _DELETED_AT_ONCE):
            failed |= await _visit(self._delete_batch, paths[start : start + _DELETED_AT_ONCE])
        return failed

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield the objects whose keys start with `prefix`, by their keys."""
        found = local_objects(self._tree, prefix)
        while objects := await _visit(_take, found, _LISTED_AT_ONCE):
            for stored in objects:
                yield stored

    async def list_unfinished(self, prefix: str = "") -> AsyncIterator[UnfinishedWrite]:
        """Yield what is being written, or was when its writer died; it counts as begun when it was last added to."""
        found = unfinished_writes(self._tree)
        while writes := await _visit(_take, found, _LISTED_AT_ONCE):
            for write in writes:
                if write.key.startswith(prefix):
                    yield write

    async def abort_unfinished(self, write: UnfinishedWrite) -> None:
        """Remove what a writer has left behind; one that is still at it fails with StoreUnavailableError."""
        if unfinished_write(write.token, write.begun_at) == write:
            await _visit(self._discard, incoming_path(write.token))

    async def presign_put(
        self, key: str, *, size_bytes: int, content_type: str, expires_in: timedelta
    ) -> PresignedRequest:
        """Return a request that stores an object, as `ObjectStore.presign_put` says; a `PresignedServer` answers it.

        Raises:
            StoreRefusedError: there is no such server here, and none is named.
            ValueError: the length or the media type cannot be asked for.

        """
        if not 0 <= size_bytes <= self.max_presigned_bytes:
            raise ValueError("the length is beyond what one request can put")
        request = PresignedPut(checked_key(key), _moment(expires_in), checked_type(content_type), size_bytes)
        headers = {"Content-Type": content_type, "Content-Length": str(size_bytes)}
        return PresignedRequest("PUT", await self._signed_url(request), headers)

    async def presign_get(
        self,
        key: str,
        *,
        file_name: str,
        content_type: str,
        expires_in: timedelta,
        size_bytes: int | None = None,
    ) -> PresignedRequest:
        """Return a request that reads an object, as `ObjectStore.presign_get` says; a `PresignedServer` answers it.

        Raises:
            StoreRefusedError: there is no such server here, and none is named.
            ValueError: the media type cannot be asked for.

        """
        request = PresignedGet(
            checked_key(key), _moment(expires_in), checked_type(content_type), file_name, size_bytes
        )
        return PresignedRequest("GET", await self._signed_url(request))

    async def signer(self) -> RequestSigner:
        """Return what signs and verifies presigned requests, by the key that all processes of the folder share."""
        if self._signer is None:
            self._signer = RequestSigner(await _visit(local_presigning_key, self.root))
        return self._signer

    async def _signed_url(self, request: PresignedPut | PresignedGet) -> str:
        if self.files_url is None:
            raise StoreRefusedError(
                "presigned requests are not served here, and no URL is set where they are"
            )
        query = (await self.signer()).query(request)
        return f"{self.files_url.rstrip('/')}/{request.key}?{query}"

    async def _read(self, key: str, found: os.stat_result, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            chunk = await _visit(self._read_chunk, key, found, start, min(_CHUNK_BYTES, end - start))
            start += len(chunk)
            yield chunk

    async def _publish_whole(self, incoming: Sequence[str], key: str, state: WriteState) -> StoredObject:
        """Move the object into place, or, when cancelled meanwhile, leave nothing of it."""
        publishing = asyncio.ensure_future(_visit(self._publish, incoming, key))
        try:
            stored = await to_the_end(_outcome(publishing))
        except WriteRemovedError:
            state.remains = Remains.NOTHING
            raise
        except asyncio.CancelledError:
            if not publishing.cancelled() and publishing.exception() is None:
                await _whole_visit(self._delete, key)
                state.remains = Remains.NOTHING
            raise
        state.remains = Remains.OBJECT
        return stored

    def _create(self, key: str, content: bytes) -> bool:
        incoming = new_incoming_path(key)
        try:
            self._tree.create(incoming)
            self._tree.append(incoming, content)
            self._tree.sync(incoming)
            return self._tree.link(incoming, key.split("/"))
        finally:
            self._discard(incoming)

    def _begin(self, incoming: Sequence[str]) -> None:
        self._tree.create(incoming)

    def _append(self, incoming: Sequence[str], block: bytes) -> None:
        with _told_when_removed():
            self._tree.append(incoming, block)

    def _sync(self, incoming: Sequence[str]) -> None:
        with _told_when_removed():
            self._tree.sync(incoming)

    def _publish(self, incoming: Sequence[str], key: str) -> StoredObject:
        try:
            with _told_when_removed():
                return stored_object(key, self._tree.rename(incoming, key.split("/")))
        except BaseException:
            self._discard(incoming)
            raise

    def _discard(self, incoming: Sequence[str]) -> None:
        self._tree.remove(incoming, durably=False)

    def _read_chunk(self, key: str, found: os.stat_result, start: int, length: int) -> bytes:
        with self._tree.file(key.split("/")) as file:
            if not _is_unchanged(found, os.fstat(file)):
                raise ObjectMissingError(key)
            chunk = os.pread(file, length, start)
            # Only a network's file system gives less before the end.
            while len(chunk) < length and (more := os.pread(file, length - len(chunk), start + len(chunk))):
                chunk += more
        if len(chunk) < length:
            raise ObjectMissingError(key)
        return chunk

    def _delete(self, key: str) -> None:
        self._tree.remove(key.split("/"))

    def _delete_batch(self, paths: Sequence[Sequence[str]]) -> dict[str, str]:
        """Delete objects with one flush of each folder, and say why it did not succeed by key."""
        failed: dict[str, str] = {}
        folders: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for path in paths:
            folders[tuple(path[:-1])].append(path[-1])
        for folder, names in folders.items():
            try:
                refused = self._tree.remove_all(folder, names)
            except OSError as error:
                refused = dict.fromkeys(names, error)
            failed |= {"/".join([*folder, name]): str(_told(error)) for name, error in refused.items()}
        return failed


async def _visit(step: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Have a thread do a step. Raises the interface's errors for those of the operating system."""
    try:
        return await asyncio.to_thread(step, *arguments, **options)
    except OSError as error:
        raise _told(error) from error


async def _whole_visit(step: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Do the same, and when cancelled meanwhile, do not go on before it is done."""
    return await to_the_end(_visit(step, *arguments, **options))


async def _outcome(task: asyncio.Future[_T]) -> _T:
    return await task


def _is_unchanged(before: os.stat_result, now: os.stat_result) -> bool:
    # The number of a file that is gone is given to another one.
    return os.path.samestat(before, now) and (before.st_size, before.st_mtime_ns) == (
        now.st_size,
        now.st_mtime_ns,
    )


@contextmanager
def _told_when_removed() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ObjectMissingError):
        raise WriteRemovedError("what was being written was removed meanwhile") from None


def _told(error: OSError) -> StoreRefusedError | StoreUnavailableError:
    told = StoreRefusedError if error.errno in _REFUSALS else StoreUnavailableError
    return told(error.strerror or type(error).__name__)


def _moment(expires_in: timedelta) -> int:
    return math.ceil(time.time() + expires_in.total_seconds())


def _take(found: Iterator[_T], count: int) -> list[_T]:
    return list(itertools.islice(found, count))


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small chunks, so that a visit of a thread pays."""
    waiting = bytearray()
    async for chunk in chunks:
        waiting += chunk
        if len(waiting) >= _CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
