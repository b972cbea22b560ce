"""Hints between processes by LISTEN and NOTIFY. A hint may come late, twice or never: its receiver polls as well."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import asyncpg

from millrace_queue.entries import Connection

CHANNEL_READY: Final = "millrace_queue_ready"
"""Says that entries became ready; the payload names their types, separated by commas. Empty: any types."""

# Its commit need not be durable: waiting for the disk would delay the hint by more than all the rest takes.
_NOTIFY: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
_NOTIFY_INTERVAL: Final = 0.05
_MAX_PAYLOAD: Final = 7000
_PING_INTERVAL: Final = 10.0
_PING_TIMEOUT: Final = 5.0
_CONNECT_TIMEOUT: Final = 10.0
_FIRST_PAUSE: Final = 0.2
_LAST_PAUSE: Final = 10.0
_NO_ROOM: Final = (asyncpg.ProgramLimitExceededError, asyncpg.InsufficientResourcesError)

_logger = logging.getLogger(__name__)


class Notifier:
    """Sends hints on one channel, gathered so that a busy process sends few.

    The first hint goes out at once, those that follow within 50 ms as one. Hints are sent outside of any
    transaction: NOTIFY takes a lock, global to the server, that is held until its transaction commits. Send
    them after the commit of what they speak of.
    """

    def __init__(
        self,
        connection: Callable[[], AbstractAsyncContextManager[Connection]],
        channel: str,
        *,
        is_unavailable: Callable[[BaseException], bool],
    ) -> None:
        """Take where to borrow a connection in autocommit mode, and which of its errors only drop the hint."""
        self._connection = connection
        self._channel = channel
        self._is_unavailable = is_unavailable
        self._words: set[str] = set()
        self._unspecific = False
        self._wanted = asyncio.Event()

    def notify(self, words: Iterable[str] = ()) -> None:
        """Have a hint sent soon, without waiting for it.

        Args:
            words: its payload, words without commas; none: it speaks of everything.

        """
        known = len(self._words)
        given = set(words)
        self._words |= given
        self._unspecific |= not given
        if not given or len(self._words) > known:
            self._wanted.set()

    async def run(self) -> None:
        """Send hints until it is cancelled; the caller owns the task. Hints from before are sent first.

        A hint that cannot be sent because the database is unavailable, or has no room for it (its queue of
        notifications is full as long as some listener sleeps in a transaction), is dropped; any other error ends it.
        """
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            payload = self._take_payload()
            try:
                async with self._connection() as conn:
                    await conn.execute(_NOTIFY, self._channel, payload)
            except Exception as error:
                if not (isinstance(error, _NO_ROOM) or self._is_unavailable(error)):
                    raise
                _logger.warning("A hint on %s was dropped: %r", self._channel, error)
            await asyncio.sleep(_NOTIFY_INTERVAL)

    def _take_payload(self) -> str:
        payload = "" if self._unspecific else ",".join(sorted(self._words))
        self._words.clear()
        self._unspecific = False
        return payload if len(payload.encode()) <= _MAX_PAYLOAD else ""


class Listener:
    """Receives hints on a connection of its own, which it pings and replaces when it is lost.

    The connection must be direct: a pooler in transaction mode does not deliver notifications.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        receivers: Mapping[str, Callable[[str], None]],
        *,
        is_unavailable: Callable[[BaseException], bool],
        ping_seconds: float = _PING_INTERVAL,
    ) -> None:
        """Take how to connect, and for each channel what is called with the payload of a hint.

        A receiver returns at once; it sets an asyncio.Event, say. After each connect all are called with an
        empty payload, for the hints that were missed. `ping_seconds` is how often the connection is tried: so late may
        it be noticed that it was lost without a word.
        """
        self._connect = connect
        self._receivers = receivers
        self._is_unavailable = is_unavailable
        self._ping_seconds = ping_seconds

    async def run(self) -> None:
        """Listen until it is cancelled; the caller owns the task.

        While the database is unavailable it tries again with growing pauses, up to 10 s; any other error ends it.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._listening() as (conn, lost):
                    pause = _FIRST_PAUSE
                    await _ping_until(lost, conn, self._ping_seconds)
            except Exception as error:
                if not self._is_unavailable(error):
                    raise
                _logger.warning("Listening for hints is interrupted: %r", error)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter is no secret
            pause = min(pause * 2, _LAST_PAUSE)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[tuple[Connection, asyncio.Event]]:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            conn = await self._connect()
        try:
            lost = asyncio.Event()
            conn.add_termination_listener(lambda _: lost.set())
            for channel, receiver in self._receivers.items():
                await conn.add_listener(channel, _receive_with(receiver))
            for receiver in self._receivers.values():
                receiver("")
            yield conn, lost
        finally:
            conn.terminate()


def _receive_with(receiver: Callable[[str], None]) -> Callable[..., None]:
    def receive(_conn: object, _pid: int, _channel: str, payload: object) -> None:
        receiver(str(payload))

    return receive


async def _ping_until(lost: asyncio.Event, conn: Connection, interval: float) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await lost.wait()
            return
        await conn.execute("SELECT 1", timeout=_PING_TIMEOUT)
