"""Standard input, and what else can be read only once, as a stream."""

import asyncio
import concurrent.futures
import errno
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")

_CHUNK_BYTES = 512 * 1024


async def standard_input() -> AsyncIterator[bytes]:
    """Yield what comes, as it comes. OSError when it cannot be read.

    It is read in threads that nobody waits for: Ctrl-C ends the command although nothing comes.
    """
    if sys.stdin is None:
        raise OSError(errno.EBADF, "Standard input is closed")
    # Not by the buffer of `sys.stdin`, which the interpreter could not take down while somebody reads it.
    file = sys.stdin.fileno()
    while chunk := await _in_thread(lambda: os.read(file, _CHUNK_BYTES)):
        yield chunk


def is_stream(path: str) -> bool:
    """Tell whether a path is that of a pipe or the like: something that is there, but no file or folder."""
    return Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir())


async def streamed(path: str) -> AsyncIterator[bytes]:
    """Yield what comes of a pipe or the like, as `standard_input` does. OSError when it cannot be read."""
    # Opening a pipe takes until somebody writes to it. It is left open while a thread may be reading it.
    file = await _in_thread(lambda: os.open(path, os.O_RDONLY))
    while chunk := await _in_thread(lambda: os.read(file, _CHUNK_BYTES)):
        yield chunk
    os.close(file)


async def _in_thread(function: Callable[[], _Result]) -> _Result:
    answer: concurrent.futures.Future[_Result] = concurrent.futures.Future()
    # Whoever is cancelled while waiting leaves it alone.
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(function())
        except OSError as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True, name="standard input").start()
    return await asyncio.wrap_future(answer)
