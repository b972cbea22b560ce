"""A slow upload is let go on unless others wait for its place."""

import asyncio

import pytest

from millrace_jobs import upload_pace
from millrace_jobs.upload_pace import UploadPace
from millrace_storage import UploadGivenUp

_KIBIBYTE = 1024


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_pace, "_BLOCK_SECONDS", 0.05)
    monkeypatch.setattr(upload_pace, "_LOOK_EVERY_SECONDS", 0.001)


async def test_a_silent_upload_goes_on_until_others_wait() -> None:
    asked = 0

    def others_wait() -> bool:
        nonlocal asked
        asked += 1
        return asked == 20

    with pytest.raises(UploadGivenUp):
        async with UploadPace(others_wait).waiting():
            await asyncio.Event().wait()
    assert asked == 20


async def test_drops_are_no_progress() -> None:
    pace = UploadPace(lambda: True)

    async def drip() -> None:
        while True:
            async with pace.waiting():
                await asyncio.sleep(0.005)
            pace.arrived(1)

    with pytest.raises(UploadGivenUp):
        await drip()


async def test_one_that_is_fast_enough_is_not_asked_about() -> None:
    def others_wait() -> bool:
        raise AssertionError

    pace = UploadPace(others_wait)
    for _ in range(300):
        async with pace.waiting():
            await asyncio.sleep(0)
        pace.arrived(64 * _KIBIBYTE)


async def test_time_in_which_nobody_waits_for_content_does_not_count() -> None:
    pace = UploadPace(lambda: True)
    async with pace.waiting():
        pass
    await asyncio.sleep(0.1)
    async with pace.waiting():
        await asyncio.sleep(0)
