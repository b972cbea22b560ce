"""Folders of this machine for what is too large for memory, gone when the worker is done with them or was killed."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from millrace_worker.handlers.thread_calls import call_in_thread

_PREFIX = "millrace-work-"


@asynccontextmanager
async def working_folder() -> AsyncIterator[Path]:
    """Give a new folder that is removed afterwards. Those that workers left behind that were killed are removed first.

    A lock tells them apart, which ends with the process that holds it. Raises OSError when no folder can be made.
    """
    await call_in_thread(_remove_abandoned)
    # Not in a thread: one that is cancelled would leave it behind.
    folder, lock = _make()
    try:
        yield folder
    finally:
        await call_in_thread(_remove, folder, lock)


def _make() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _locked(folder)
        if lock is not None:
            return folder, lock
        # Somebody took it for abandoned, right after it was made.


def _remove(folder: Path, lock: int) -> None:
    try:
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def _remove_abandoned() -> None:
    for folder in _own_folders():
        lock = _locked(folder)
        if lock is not None:
            # What cannot be removed now is found again.
            with contextlib.suppress(OSError):
                _remove(folder, lock)


def _own_folders() -> Iterator[Path]:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                yield folder


def _locked(folder: Path) -> int | None:
    """Return a lock of the folder, None when somebody else has it or the folder is gone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        return None
    return lock
