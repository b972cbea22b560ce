"""Waiting for what only looking again can tell."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


async def eventually(condition: Callable[[], Awaitable[_T]], *, within: float = 20) -> _T:
    """Return what the condition gives once that is true; raise TimeoutError when it never is."""
    async with asyncio.timeout(within):
        while True:
            if result := await condition():
                return result
            await asyncio.sleep(0.02)
