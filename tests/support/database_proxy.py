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
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert self._server is not None
        self._connections.add(task)
        try:
            with contextlib.closing(writer):
                # It may have been let in right before the cut.
                if self._server.is_serving():
                    await self._pass(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
