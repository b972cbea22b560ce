import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Value = TypeVar("_Value")

_SECONDS_BETWEEN_REPORTS = 0.5


async def call_in_thread(
    function: Callable[_Parameters, _Value], *args: _Parameters.args, **kwargs: _Parameters.kwargs
) -> _Value:
    """Call a function in a thread, as asyncio.to_thread does, and outlive it in any case.

    When the caller is cancelled the cancellation comes through only after the call has ended, so that nothing is
    taken away under the thread. For calls that are short; `watch_thread` is for long ones.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await _end_of(call)
        raise


async def watch_thread(
    function: Callable[[], _Value], *, report: Callable[[], Awaitable[None]], stop: Callable[[], None]
) -> _Value:
    """Call a function in a thread, and `report` twice a second meanwhile.

    When the caller is cancelled `stop` is called, which is to have the function end soon, and that is waited for.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        while not (await asyncio.wait([call], timeout=_SECONDS_BETWEEN_REPORTS))[0]:
            await report()
    except BaseException:
        stop()
        await _end_of(call)
        raise
    return call.result()


async def _end_of(call: asyncio.Future[_Value]) -> None:
    """Wait for the end of a call, whatever it is, through any further cancellations."""
    while not call.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([call])
    if not call.cancelled():
        # An exception that nobody has looked at would be logged.
        call.exception()
