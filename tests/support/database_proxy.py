"""A way to the database that a test can cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

_CHUNK = 65_536


class DatabaseProxy:
    """Passes bytes between TCP clients and the server's Unix socket, until it is cut."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def connect(self) -> None:
        """Lets clients in, on the same port as before."""
        self._server = await asyncio.start_server(self._let_in, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        assert self._server is not None
        self._server.close()
        # What the system has let in until now has come to us then.
        for _ in range(3):
            await asyncio.sleep(0)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._server is not None
        if not self._server.is_serving():
            # It came right before the cut.
            writer.close()
            return
        connection = asyncio.create_task(self._pass(reader, writer))
        self._connections.add(connection)

        def ended(_: asyncio.Task[None]) -> None:
            self._connections.discard(connection)
            writer.close()

        # Not in the task itself, which may be cancelled before it begins.
        connection.add_done_callback(ended)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._socket)
            with contextlib.closing(upstream_writer):
                await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[DatabaseProxy, str]]:
    """Gives a proxy in front of a database behind a Unix socket, and the URL that leads through it."""
    direct = make_url(url)
    proxy = DatabaseProxy(Path(str(direct.query["host"])) / ".s.PGSQL.5432")
    await proxy.connect()
    through = direct.set(host="127.0.0.1", port=proxy.port, query={"ssl": "disable"})
    yield proxy, through.render_as_string(hide_password=False)
    await proxy.cut()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()
