"""Looking up the addresses of hosts that users have named."""

import asyncio
import socket
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from millrace_worker.threads import ThreadPool

# Their own: a name server that does not answer holds a thread for long, and those of asyncio read and write files, too. So many
# that nobody waits for one: a worker posts to 70 hosts at once, and a look-up may go on for as long again when its post has
# been given up.
_threads = ThreadPool(150)


class HostLookup(AbstractResolver):
    """Asks the system, as aiohttp's own resolver does, but in threads that nothing else needs."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError when it has none."""
        given_up = False
        ask = partial(
            socket.getaddrinfo, port=port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )

        def look_up(host: str) -> Any:
            return [] if given_up else ask(host)

        try:
            found, error = await _threads.run(look_up, host)
        except asyncio.CancelledError:
            given_up = True
            raise
        if error is not None:
            raise error
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: the threads are kept."""
