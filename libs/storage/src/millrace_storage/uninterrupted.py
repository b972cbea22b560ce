"""Work that a cancelled task still brings to its end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")

# Two of these in a row, as for publishing an object and taking it back, end before a process is ended by force.
_SETTLING_SECONDS = 3.0


async def to_the_end(work: Coroutine[Any, Any, _Result], seconds: float = _SETTLING_SECONDS) -> _Result:
    """Return what `work` returns; if cancelled meanwhile, however often, not before it has ended.

    A cancelled caller waits for some seconds; then the work is cancelled too.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    giving_up: asyncio.TimerHandle | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if giving_up is None:
                giving_up = loop.call_later(seconds, task.cancel)
    if giving_up is None:
        return task.result()
    giving_up.cancel()
    if not task.cancelled():
        # Looked at, so that it is not reported as never looked at.
        task.exception()
    raise asyncio.CancelledError
