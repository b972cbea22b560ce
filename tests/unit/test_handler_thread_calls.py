import asyncio
import threading

import pytest

from millrace_worker.handlers.thread_calls import call_in_thread, watch_thread


async def test_gives_the_result_or_the_error() -> None:
    assert await call_in_thread(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await call_in_thread(int, "x")


async def test_a_cancelled_call_has_ended_when_the_cancellation_comes_through() -> None:
    loop, started, release = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    ended = False

    def work() -> None:
        nonlocal ended
        loop.call_soon_threadsafe(started.set)
        assert release.wait(20)
        ended = True

    calling = asyncio.ensure_future(call_in_thread(work))
    await started.wait()
    calling.cancel()
    done, _ = await asyncio.wait([calling], timeout=0.05)
    assert not done
    calling.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ended


async def test_reports_while_the_thread_works() -> None:
    reported = threading.Event()

    async def report() -> None:
        reported.set()

    assert await watch_thread(lambda: reported.wait(20), report=report, stop=reported.set)


async def test_an_error_of_the_report_stops_the_thread() -> None:
    stopped = threading.Event()

    async def report() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await watch_thread(lambda: stopped.wait(20), report=report, stop=stopped.set)
    assert stopped.is_set()
