"""Looking up the addresses of hosts that users have named."""

import socket
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from millrace_worker.threads import ThreadPool

# Their own: a name server that does not answer holds a thread for long, and those of asyncio read and write files, too.
_threads = ThreadPool(20)


class HostLookup(AbstractResolver):
    """Asks the system, as aiohttp's own resolver does, but in threads that nothing else needs."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError when it has none."""
        look_up = partial(
            socket.getaddrinfo, port=port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found, error = await _threads.run(look_up, host)
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
