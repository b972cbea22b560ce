"""What has arrived of a download, beside the path that it is for."""

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import stat
import sys
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if sys.platform != "win32":
    import fcntl

# What is less comes again sooner than anybody has thought about it.
_WORTH_KEEPING_BYTES = 1024 * 1024
_TAKING_AGAIN = 10

_T = TypeVar("_T")

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(slots=True)
class Arrived:
    """The beginning of a content: its length and its hash."""

    size_bytes: int = 0
    digest: "_Hash" = field(default_factory=hashlib.sha256)

    def add(self, chunk: bytes) -> None:
        """Count what comes behind it."""
        self.digest.update(chunk)
        self.size_bytes += len(chunk)


@dataclass(frozen=True, slots=True)
class PartialFile:
    """A file beside a target, open and held: nobody else writes to it, or takes it away."""

    path: Path
    sink: BufferedRandom
    is_found_again: bool
    """Whether another download of the same content to the same target opens it, once this one has let go of it."""

    def read(self) -> Arrived:
        """Return what there is; writing goes on behind it."""
        digest = hashlib.file_digest(self.sink, "sha256")
        return Arrived(self.sink.tell(), digest)

    def begin_anew(self) -> None:
        """Throw away what is there."""
        self.sink.seek(0)
        self.sink.truncate()

    def put(self, target: Path, *, replace: bool) -> None:
        """Make it the target, safely on the disk, and let go of it.

        FileExistsError when something is there that is not to be replaced: then it is held as before.
        """
        self.sink.flush()
        os.fsync(self.sink.fileno())
        if not self.is_found_again:
            # Windows moves no open file.
            self.sink.close()
        if replace:
            self.path.replace(target)
        else:
            _move_where_nothing_is(self.path, target)
        self.sink.close()

    def leave(self) -> int:
        """Let go of it for another download, and return how much there is; it is removed, and 0 returned, if that is of no use."""
        # The disk may be full.
        with contextlib.suppress(OSError, ValueError):
            self.sink.flush()
        size = 0 if self.sink.closed else os.fstat(self.sink.fileno()).st_size
        if not self.is_found_again or size < _WORTH_KEEPING_BYTES:
            self.remove()
            return 0
        self._close()
        return size

    def remove(self) -> None:
        """Remove it, unless it has taken its place, and let go of it."""
        if not self.is_found_again:
            # Windows removes no open file, and the name is nobody else's.
            self._close()
            self.path.unlink(missing_ok=True)
        elif not self.sink.closed and _is_there(self.path, os.fstat(self.sink.fileno())):
            self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self.sink.close()


async def open_partial(target: Path, sha256: str) -> PartialFile:
    """Open what an earlier download of the same content to the same target has left, or else a new file.

    A download that goes on meanwhile keeps its own, and this one gets another. When cancelled meanwhile, it is not before
    the file is there, so that it can be removed. OSError, naming the folder, when nothing can be written there.
    """
    taking = asyncio.ensure_future(asyncio.to_thread(_take, target, sha256))
    try:
        return await _ended(taking)
    except asyncio.CancelledError:
        if taking.done() and taking.exception() is None:
            taking.result().leave()
        raise
    except OSError as error:
        # Nobody has asked for a file of this name, but for one in this folder.
        raise OSError(error.errno, error.strerror, str(target.parent)) from error


async def put_in_place(partial: PartialFile, target: Path, *, replace: bool) -> None:
    """Do as `PartialFile.put`; when cancelled meanwhile, not before it is known whether it is in its place."""
    await _ended(asyncio.ensure_future(asyncio.to_thread(partial.put, target, replace=replace)))


async def _ended(step: asyncio.Future[_T]) -> _T:
    """Return what a step returns; when cancelled meanwhile, not before it has ended."""
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait([step])
        raise


def _move_where_nothing_is(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
    except OSError:
        # A file system without links: who makes the file has the name, and replaces what is its own.
        target.touch(exist_ok=False)
        path.replace(target)
    else:
        path.unlink()


def _take(target: Path, sha256: str) -> PartialFile:
    # Not made of the target's own name, which may be as long as a name can be.
    known = hashlib.sha256(os.fsencode(target.name) + b"/" + sha256.encode()).hexdigest()[:32]
    return _held(target.with_name(f".{known}.part")) or _new(
        target.with_name(f".{secrets.token_hex(16)}.part")
    )


def _new(path: Path) -> PartialFile:
    return PartialFile(path, path.open("x+b"), is_found_again=False)


def _held(path: Path) -> PartialFile | None:
    """Open a file and hold it; None when somebody else does, it is not this user's own, or files cannot be held here."""
    if sys.platform == "win32":
        return None
    with contextlib.suppress(OSError):
        for _ in range(_TAKING_AGAIN):
            with contextlib.ExitStack() as unless_held:
                descriptor, is_new = _opened(path)
                unless_held.callback(os.close, descriptor)
                _lock(descriptor, path if is_new else None)
                found = os.fstat(descriptor)
                # Who held it before may have put it in its place, or removed it, since it was opened here.
                if not _is_there(path, found):
                    continue
                if _is_own(found):
                    unless_held.pop_all()
                    return PartialFile(path, os.fdopen(descriptor, "r+b"), is_found_again=True)
                if is_new:
                    # A share may say that whatever is made there is somebody else's.
                    path.unlink(missing_ok=True)
                return None
    return None


def _opened(path: Path) -> tuple[int, bool]:
    """Open a file, and tell whether it was made here."""
    # A link that somebody has laid there is not followed, and a pipe not waited for.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, flags, 0o666), False


def _lock(descriptor: int, made: Path | None) -> None:
    """Hold a file. OSError when somebody else does, or files cannot be held here; then what was `made` is removed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if made is not None and not isinstance(error, BlockingIOError):
            made.unlink(missing_ok=True)
        raise


def _is_own(found: os.stat_result) -> bool:
    """Tell whether it is a file of this user's, and only here."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


def _is_there(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), found)
    except FileNotFoundError:
        return False
