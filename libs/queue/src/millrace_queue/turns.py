"""Turns: who brings many entries of one tenant in at once waits a moment for others that do the same."""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Final, TypeAlias

from millrace_queue.entries import Connection

Share: TypeAlias = tuple[str, int, str]
"""A tenant's share of a line: type, priority, tenant."""

MANY: Final = 100
"""From so many entries of one share on, turns are taken."""

_PATIENCE_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 0.005

_TRY = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))"


async def take_turns(conn: Connection, shares: Collection[Share]) -> None:
    """Wait until no other transaction brings many entries of the same shares in; `shares` names one for each entry.

    Does nothing outside of a transaction. Transactions that do not see each other give out the same ranks, so that many at once would get their tenant as
    many shares of the line. Nobody waits for more than half a second: the other transaction may be anybody's own, and long.
    """
    if len(shares) < MANY or not conn.is_in_transaction():
        return
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _PATIENCE_SECONDS
    for share in [share for share, count in Counter(shares).items() if count >= MANY]:
        while not await conn.fetchval(_TRY, f"millrace.share {share}"):
            if loop.time() >= give_up_at:
                return
            await asyncio.sleep(_PAUSE_SECONDS)
