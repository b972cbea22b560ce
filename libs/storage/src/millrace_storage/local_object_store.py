"""Objects as files in a folder of this machine."""

import asyncio
import errno
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from millrace_storage.object_store import ObjectMissingError, ObjectStore, StoredObject, checked_key

_CHUNK_BYTES = 256 * 1024
_LISTED_AT_ONCE = 1000
_ABANDONED_AFTER_SECONDS = 24 * 3600
# No key begins so: what is being written is no object yet.
_INCOMING = ".incoming"
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# The last two: a step of the path is no folder, or a symbolic link.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class LocalObjectStore(ObjectStore):
    """Objects as files below a root folder, shared by any number of processes of one machine.

    An object is written beside its place, brought to the disk and renamed into place. Symbolic links below the
    root are never followed. Every step is a short visit of a thread that leaves nothing open, so that a task may
    be cancelled at any point.
    """

    provider = "local"

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        """Store an object, as `ObjectStore.put` says."""
        checked_key(key)
        incoming = uuid4().hex
        size = 0
        try:
            await self._begin_whole(incoming)
            async for block in _blocks(chunks):
                await asyncio.to_thread(self._append, incoming, block)
                size += len(block)
            await asyncio.to_thread(self._sync, incoming)
        except BaseException:
            await asyncio.to_thread(self._discard, incoming)
            raise
        await self._publish_whole(incoming, key)
        return StoredObject(key, size)

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes of an object, as `ObjectStore.get` says."""
        found = await self.head(key)
        if found is None:
            raise ObjectMissingError(key)
        return self._read(key, start, found.size_bytes if end is None else min(end, found.size_bytes))

    async def head(self, key: str) -> StoredObject | None:
        """Return what is known of an object, or None when there is no such object."""
        size = await asyncio.to_thread(self._size, checked_key(key))
        return None if size is None else StoredObject(key, size)

    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is no such object."""
        await asyncio.to_thread(self._delete, checked_key(key))

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield the objects whose keys start with `prefix`, by their keys."""
        found = self._walk([], prefix)
        while objects := await asyncio.to_thread(_take, found, _LISTED_AT_ONCE):
            for stored in objects:
                yield stored

    async def _read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            chunk = await asyncio.to_thread(self._read_chunk, key, start, min(_CHUNK_BYTES, end - start))
            if not chunk:
                raise ObjectMissingError(key)
            start += len(chunk)
            yield chunk

    async def _begin_whole(self, incoming: str) -> None:
        """Begin to write; when cancelled meanwhile, not before that is done: what is not there yet cannot be removed."""
        beginning = asyncio.ensure_future(asyncio.to_thread(self._begin, incoming))
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError:
            await asyncio.gather(beginning, return_exceptions=True)
            raise

    async def _publish_whole(self, incoming: str, key: str) -> None:
        """Move the object into place, or, when cancelled meanwhile, leave nothing of it."""
        publishing = asyncio.ensure_future(asyncio.to_thread(self._publish, incoming, key))
        try:
            await asyncio.shield(publishing)
        except asyncio.CancelledError:
            await asyncio.wait([publishing])
            if publishing.exception() is None:
                await asyncio.to_thread(self._delete, key)
            raise

    def _begin(self, incoming: str) -> None:
        self._root.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        with self._folder((_INCOMING,), create=True) as folder:
            self._remove_abandoned(folder)
            os.close(os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE, dir_fd=folder))

    def _remove_abandoned(self, folder: int) -> None:
        """Remove what processes that were killed had begun to write."""
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                changed = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
                if time.time() - changed > _ABANDONED_AFTER_SECONDS:
                    os.unlink(name, dir_fd=folder)

    def _append(self, incoming: str, block: bytes) -> None:
        with self._folder((_INCOMING,)) as folder:
            file = os.open(incoming, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, dir_fd=folder)
            with os.fdopen(file, "wb", buffering=0) as writer:
                rest = memoryview(block)
                while rest:
                    rest = rest[writer.write(rest) :]

    def _sync(self, incoming: str) -> None:
        with self._folder((_INCOMING,)) as folder:
            file = os.open(incoming, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _publish(self, incoming: str, key: str) -> None:
        *folders, name = key.split("/")
        with self._folder((_INCOMING,)) as source:
            try:
                with self._folder(folders, create=True) as target:
                    os.replace(incoming, name, src_dir_fd=source, dst_dir_fd=target)
                    os.fsync(target)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(incoming, dir_fd=source)
                raise

    def _discard(self, incoming: str) -> None:
        with suppress(FileNotFoundError), self._folder((_INCOMING,)) as folder:
            os.unlink(incoming, dir_fd=folder)

    def _size(self, key: str) -> int | None:
        try:
            with self._file(key) as file:
                return os.fstat(file).st_size
        except ObjectMissingError:
            return None

    def _read_chunk(self, key: str, start: int, length: int) -> bytes:
        with self._file(key) as file:
            return os.pread(file, length, start)

    def _delete(self, key: str) -> None:
        *folders, name = key.split("/")
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(folders) as folder:
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def _walk(self, folders: Sequence[str], prefix: str) -> Iterator[StoredObject]:
        try:
            with self._folder(folders) as folder:
                entries = sorted(os.scandir(folder), key=_listing_order)
        except FileNotFoundError:
            return
        for entry in entries:
            key = "/".join([*folders, entry.name])
            if entry.name.startswith(".") or entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from self._walk([*folders, entry.name], prefix)
            elif key.startswith(prefix) and (size := self._size(key)) is not None:
                yield StoredObject(key, size)

    @contextmanager
    def _file(self, key: str) -> Iterator[int]:
        *folders, name = key.split("/")
        try:
            with self._folder(folders) as folder:
                file = os.open(name, _OPEN_FILE, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            raise ObjectMissingError(key) from None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ObjectMissingError(key)
            yield file
        finally:
            os.close(file)

    @contextmanager
    def _folder(self, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Open a folder below the root step by step, so that no step can be a symbolic link."""
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                if create:
                    _make_folder(name, folder)
                inner = os.open(name, _OPEN_FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, _FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)


def _listing_order(entry: os.DirEntry[str]) -> str:
    # A folder's keys go on with "/": so the keys come out sorted as a whole.
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _take(objects: Iterator[StoredObject], count: int) -> list[StoredObject]:
    return [stored for stored, _ in zip(objects, range(count), strict=False)]


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
