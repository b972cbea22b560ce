"""An HTTP answer whose head keeps nobody busy for long."""

from typing import Any

import aiohttp

RECEIVE_BUFFER_BYTES = 16 * 1024
"""How much of what a server sends may lie ready to be read, which is read and parsed in one go."""

_MOST_INTERIM = 10


class TooManyInterimError(aiohttp.ClientError):
    """The server went on to say that the answer would come."""


class BoundedResponse(aiohttp.ClientResponse):
    """An answer that may have some interim ones before it (1xx), and not so many that an event loop does nothing else."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head. Raises TooManyInterimError."""
        protocol = connection.protocol
        read, left = protocol.read, _MOST_INTERIM + 1

        async def read_some() -> Any:
            nonlocal left
            if left == 0:
                raise TooManyInterimError
            left -= 1
            return await read()

        protocol.read = read_some
        return await super().start(connection)
