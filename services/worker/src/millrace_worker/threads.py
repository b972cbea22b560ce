import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Argument = TypeVar("_Argument")

Returned = tuple[Any, BaseException | None]
"""What a call returned, or what it raised."""


class ThreadPool:
    """Threads for plain `def` handlers, made when they are needed and kept.

    Other than those of concurrent.futures they are daemons: a handler that does not return cannot hold up the
    end of the process, which would otherwise overstay its grace period.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def run(self, function: Callable[[_Argument], Any], argument: _Argument) -> Returned:
        """Call the function in a thread and wait for its end, whatever that is.

        What it raises is handed over, not raised: an exception such as StopIteration cannot pass through a
        future. When the waiting task is cancelled the call goes on.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Returned] = loop.create_future()
        context = contextvars.copy_context()

        def deliver(returned: Returned) -> None:
            if not future.done():
                future.set_result(returned)

        def call() -> None:
            returned = _call(context, function, argument)
            # Nobody waits any more once the loop is closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(deliver, returned)

        self._submit(call)
        return await future

    def close(self) -> None:
        """Let each thread end when its call has returned."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _submit(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        if not self._idle.acquire(blocking=False) and self._threads < self._max_threads:
            self._threads += 1
            threading.Thread(target=self._work, name=f"handler-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call
            self._idle.release()


def _call(
    context: contextvars.Context, function: Callable[[_Argument], Any], argument: _Argument
) -> Returned:
    try:
        return context.run(function, argument), None
    except BaseException as error:  # noqa: BLE001 - it is handed to the waiting task
        return None, error
