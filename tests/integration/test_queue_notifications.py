import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from millrace_database.availability import is_unavailable
from millrace_database.database import Database
from millrace_queue import CHANNEL_READY, Listener, Notifier, notifications


class _Inbox:
    """What a listener received."""

    def __init__(self) -> None:
        self._payloads: asyncio.Queue[str] = asyncio.Queue()
        self.receive = self._payloads.put_nowait

    async def next(self) -> str:
        async with asyncio.timeout(10):
            return await self._payloads.get()

    async def connected(self) -> None:
        """Waits for the empty hint that follows each connect."""
        assert not await self.next()


@asynccontextmanager
async def _running(*services: Listener | Notifier) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(service.run()) for service in services]
        yield
        for task in running:
            task.cancel()


def _listener(database: Database, inbox: _Inbox) -> Listener:
    return Listener(database.direct_connection, {CHANNEL_READY: inbox.receive}, is_unavailable=is_unavailable)


def _notifier(database: Database) -> Notifier:
    return Notifier(database.connection, CHANNEL_READY, is_unavailable=is_unavailable)


async def _listening_backend(conn: asyncpg.Connection) -> int | None:
    pid: int | None = await conn.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%LISTEN%'"
        " AND pid <> pg_backend_pid()"
    )
    return pid


async def test_a_hint_reaches_every_listener(database: Database) -> None:
    one, other, notifier = _Inbox(), _Inbox(), _notifier(database)
    async with _running(_listener(database, one), _listener(database, other), notifier):
        await one.connected()
        await other.connected()
        notifier.notify(["reports:generate"])

        assert await one.next() == "reports:generate"
        assert await other.next() == "reports:generate"


async def test_hints_in_quick_succession_are_sent_as_one(database: Database) -> None:
    inbox, notifier = _Inbox(), _notifier(database)
    async with _running(_listener(database, inbox), notifier):
        await inbox.connected()
        notifier.notify(["first"])
        assert await inbox.next() == "first"
        for number in range(100):
            notifier.notify([f"type-{number % 3}"])
        assert await inbox.next() == "type-0,type-1,type-2"
        notifier.notify(["last"])

        assert await inbox.next() == "last"


async def test_a_hint_about_everything_is_not_narrowed_by_others(database: Database) -> None:
    inbox, notifier = _Inbox(), _notifier(database)
    async with _running(_listener(database, inbox)):
        await inbox.connected()
        notifier.notify(["a"])
        notifier.notify()
        async with _running(notifier):
            assert not await inbox.next()


async def test_more_words_than_a_payload_holds_become_a_hint_about_everything(database: Database) -> None:
    inbox, notifier = _Inbox(), _notifier(database)
    async with _running(_listener(database, inbox), notifier):
        await inbox.connected()
        notifier.notify([f"{number:0100}" for number in range(100)])

        assert not await inbox.next()


async def test_a_lost_connection_is_replaced_and_missed_hints_are_made_up_for(database: Database) -> None:
    inbox, notifier = _Inbox(), _notifier(database)
    async with _running(_listener(database, inbox), notifier), database.connection() as conn:
        await inbox.connected()
        await conn.execute("SELECT pg_terminate_backend($1)", await _listening_backend(conn))

        await inbox.connected()
        notifier.notify(["a"])
        assert await inbox.next() == "a"


async def test_a_connection_that_went_silent_is_noticed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_PING_TIMEOUT", 0.05)
    inbox = _Inbox()
    connections: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        connections.append(await database.direct_connection())
        return connections[-1]

    listener = Listener(
        connect, {CHANNEL_READY: inbox.receive}, is_unavailable=is_unavailable, ping_seconds=0.05
    )
    async with _running(listener):
        await inbox.connected()
        # As when a firewall forgot the connection: nothing comes in, and nothing says so.
        connections[0]._transport.pause_reading()  # type: ignore[attr-defined]

        await inbox.connected()
        assert len(connections) == 2


async def test_listening_waits_for_a_database_that_is_away(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, failures = _Inbox(), [ConnectionRefusedError(), TimeoutError(), OSError()]

    async def connect() -> asyncpg.Connection:
        if failures:
            raise failures.pop()
        return await database.direct_connection()

    listener = Listener(
        connect, {CHANNEL_READY: inbox.receive}, is_unavailable=lambda error: isinstance(error, OSError)
    )
    with caplog.at_level(logging.WARNING, notifications.__name__):
        async with _running(listener):
            await inbox.connected()

    assert len(caplog.records) == 3


async def test_other_errors_end_the_listener(database: Database) -> None:
    async def connect() -> asyncpg.Connection:
        raise ValueError("misconfigured")

    listener = Listener(connect, {}, is_unavailable=is_unavailable)
    with pytest.raises(ValueError, match="misconfigured"):
        await listener.run()


async def test_a_hint_is_dropped_while_the_database_is_away(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, dropped = _Inbox(), asyncio.Event()

    @asynccontextmanager
    async def connection() -> AsyncIterator[asyncpg.Connection]:
        if not dropped.is_set():
            dropped.set()
            raise ConnectionRefusedError
        async with database.connection() as conn:
            yield conn

    notifier = Notifier(connection, CHANNEL_READY, is_unavailable=is_unavailable)
    notifier.notify(["dropped"])
    with caplog.at_level(logging.WARNING, notifications.__name__):
        async with _running(_listener(database, inbox)):
            await inbox.connected()
            async with _running(notifier):
                await dropped.wait()
                notifier.notify(["sent"])

                assert await inbox.next() == "sent"

    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_hint_is_dropped_while_the_server_has_no_room_for_it(database: Database) -> None:
    inbox, dropped = _Inbox(), asyncio.Event()

    @asynccontextmanager
    async def connection() -> AsyncIterator[asyncpg.Connection]:
        async with database.connection() as conn:
            if not dropped.is_set():
                dropped.set()
                # As Postgres does when its queue of notifications is full.
                await conn.execute(
                    """DO $$ BEGIN RAISE EXCEPTION 'too many notifications' USING ERRCODE = '54000'; END $$"""
                )
            yield conn

    notifier = Notifier(connection, CHANNEL_READY, is_unavailable=is_unavailable)
    notifier.notify(["dropped"])
    async with _running(_listener(database, inbox)):
        await inbox.connected()
        async with _running(notifier):
            await dropped.wait()
            await asyncio.sleep(0.02)
            notifier.notify(["sent"])

            assert await inbox.next() == "sent"


async def test_other_errors_end_the_notifier(database: Database) -> None:
    notifier = Notifier(database.connection, "", is_unavailable=is_unavailable)
    notifier.notify()

    with pytest.raises(asyncpg.PostgresError):
        await notifier.run()
